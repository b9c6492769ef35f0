"""The device blocks of one KV group: who holds them, which are free, which can be found by content."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from tiercel.kv.block import BlockContent, Copy, KVBlock
from tiercel.types import BlockHash, KVFormat


class BlockPool:
    """Slots 0 .. num_blocks - 1 of a group's arena.

    Every slot is either held (ref_count > 0) or in the free queue. Free blocks that are sealed can still be found and taken
    back; the free queue is their LRU list: allocation takes from its front, and so forgets what was used longest ago. A pinned
    block keeps its slot and its place in the queue. on_evict is told of every sealed block that is forgotten for its slot. Not
    thread-safe: the thread that steps the engine is its only user.
    """

    def __init__(self, num_blocks: int, kv_format: KVFormat) -> None:
        self.num_blocks = num_blocks
        self.num_evictions = 0
        self.on_evict: Callable[[KVBlock], None] = lambda block: None
        self._format: KVFormat = kv_format
        self._free: OrderedDict[int, KVBlock] = OrderedDict()
        self._sealed: dict[BlockHash, KVBlock] = {}
        self._pinned: set[KVBlock] = set()
        for slot in range(num_blocks):
            self._free[slot] = self._empty(slot)

    @property
    def num_free(self) -> int:
        """Slots that can be allocated."""
        return len(self._free) - sum(block.ref_count == 0 for block in self._pinned)

    @property
    def num_held(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_cached(self) -> int:
        """Sealed blocks, held or not."""
        return len(self._sealed)

    def find(self, block_hash: BlockHash) -> KVBlock | None:
        """The sealed block with this content, held or not. Takes no reference and does not touch the LRU order."""
        return self._sealed.get(block_hash)

    def allocate(self) -> KVBlock:
        """An empty block with one reference, in the slot that lay unused longest. Raises IndexError when none is free."""
        slot, old = next(((slot, block) for slot, block in self._free.items() if not block.pins), (-1, None))
        if old is None:
            raise IndexError("the block pool is exhausted")
        del self._free[slot]
        if old.block_hash is not None:
            del self._sealed[old.block_hash]
            self.num_evictions += 1
            self.on_evict(old)
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

    def pin(self, block: KVBlock) -> None:
        """Keeps the block's bytes where they are while somebody reads them, held or not."""
        block.pins += 1
        self._pinned.add(block)

    def unpin(self, block: KVBlock) -> None:
        block.pins -= 1
        if not block.pins:
            self._pinned.remove(block)

    def seal(self, block: KVBlock, block_hash: BlockHash, content: BlockContent) -> KVBlock:
        """Makes a full block findable. Where equal content is known already, that block is held instead and this one dropped.

        Returns the block to use from now on.
        """
        known = self._sealed.get(block_hash)
        if known is not None:
            self.hold(known)
            self.drop(block)
            return known
        block.block_hash, block.content = block_hash, content
        self._sealed[block_hash] = block
        return block

    def forget(self) -> int:
        """Makes every block unfindable, whether held or not. Returns how many there were."""
        forgotten = len(self._sealed)
        for block in self._sealed.values():
            block.block_hash = block.content = None
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
        for block in self._pinned:
            owner = blocks.get(block.device.slot) or self._free.get(block.device.slot)
            assert owner is block, f"slot {block.device.slot} was given away while it was pinned"
        for block_hash, block in self._sealed.items():
            assert block.block_hash == block_hash, "a sealed block lost its hash"
            owner = blocks.get(block.device.slot) or self._free.get(block.device.slot)
            assert owner is block, f"the index points at a block that slot {block.device.slot} no longer holds"

    def _empty(self, slot: int) -> KVBlock:
        return KVBlock(Copy("device", slot, self._format))
