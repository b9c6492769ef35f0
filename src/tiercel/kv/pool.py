"""The device blocks of one KV group: who holds them, which are free, which can be found by content."""

from collections import OrderedDict
from collections.abc import Iterable

from tiercel.kv.block import Copy, KVBlock
from tiercel.types import BlockHash, KVFormat


class BlockPool:
    """Slots 0 .. num_blocks - 1 of a group's arena.

    Every slot is either held (ref_count > 0) or in the free queue. Free blocks that are sealed can still be found and taken
    back; the free queue is their LRU list: allocation takes from its front, and so forgets what was used longest ago. Not
    thread-safe: the manager is its only caller.
    """

    def __init__(self, num_blocks: int, kv_format: KVFormat) -> None:
        self.num_blocks = num_blocks
        self.num_evictions = 0
        self._format: KVFormat = kv_format
        self._free: OrderedDict[int, KVBlock] = OrderedDict()
        self._sealed: dict[BlockHash, KVBlock] = {}
        for slot in range(num_blocks):
            self._free[slot] = self._empty(slot)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Sealed blocks, held or not."""
        return len(self._sealed)

    def find(self, block_hash: BlockHash) -> KVBlock | None:
        """The sealed block with this content, held or not. Takes no reference and does not touch the LRU order."""
        return self._sealed.get(block_hash)

    def allocate(self) -> KVBlock:
        """An empty block with one reference, in the slot that lay unused longest. Raises IndexError when none is free."""
        if not self._free:
            raise IndexError("the block pool is exhausted")
        slot, old = self._free.popitem(last=False)
        if old.block_hash is not None:
            del self._sealed[old.block_hash]
            self.num_evictions += 1
        block = self._empty(slot)
        block.ref_count = 1
        return block

    def hold(self, block: KVBlock) -> None:
        """Takes one more reference."""
        if block.ref_count == 0:
            del self._free[block.device.slot]
        block.ref_count += 1

    def drop(self, block: KVBlock) -> None:
        """Gives one reference back. The last one frees the block; it queues at the back if its content can be found again."""
        block.ref_count -= 1
        if block.ref_count == 0:
            self._free[block.device.slot] = block
            self._free.move_to_end(block.device.slot, last=block.block_hash is not None)

    def seal(self, block: KVBlock, block_hash: BlockHash, parent: BlockHash) -> KVBlock:
        """Makes a full block findable. Where equal content is known already, that block is held instead and this one dropped.

        Returns the block to use from now on.
        """
        known = self._sealed.get(block_hash)
        if known is not None:
            self.hold(known)
            self.drop(block)
            return known
        block.block_hash, block.parent = block_hash, parent
        self._sealed[block_hash] = block
        return block

    def forget(self) -> int:
        """Makes every block unfindable, whether held or not. Returns how many there were."""
        forgotten = len(self._sealed)
        for block in self._sealed.values():
            block.block_hash = block.parent = None
        self._sealed.clear()
        return forgotten

    def check_integrity(self, held: Iterable[KVBlock]) -> None:
        """Raises AssertionError unless slots, references and index agree. held: one entry per reference that exists outside."""
        counts: dict[int, int] = {}
        blocks: dict[int, KVBlock] = {}
        for block in held:
            slot = block.device.slot
            counts[slot] = counts.get(slot, 0) + 1
            assert blocks.setdefault(slot, block) is block, f"two blocks claim slot {slot}"
        for slot, block in blocks.items():
            assert block.ref_count == counts[slot], f"slot {slot}: ref_count {block.ref_count}, held {counts[slot]} times"
            assert slot not in self._free, f"slot {slot} is held and free"
        for slot, block in self._free.items():
            assert block.device.slot == slot, f"free slot {slot} holds a block of slot {block.device.slot}"
            assert block.ref_count == 0, f"free slot {slot} has {block.ref_count} references"
        assert len(blocks) + len(self._free) == self.num_blocks, "a slot leaked"
        for block_hash, block in self._sealed.items():
            assert block.block_hash == block_hash, "a sealed block lost its hash"
            owner = blocks.get(block.device.slot) or self._free.get(block.device.slot)
            assert owner is block, f"the index points at a block that slot {block.device.slot} no longer holds"

    def _empty(self, slot: int) -> KVBlock:
        return KVBlock(Copy("device", slot, self._format))
