"""Writes sealed blocks to a tier while the engine goes on: what is worth writing, and when."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from tiercel.kv.arena import Arena
from tiercel.kv.block import KVBlock
from tiercel.kv.errands import Errand
from tiercel.kv.movers import Job, State
from tiercel.kv.pool import BlockPool
from tiercel.kv.tier import Tier
from tiercel.kv.transfer import WriteBlock
from tiercel.stores import Status
from tiercel.types import BlockHash, BlockKey, KVGroup

_MOST_WAITING = 32  # blocks handed to the writer ahead of time, while the engine computes
_TOUCHES = 256  # keys told to the store at once


@dataclass(frozen=True)
class WritePolicy:
    """Which blocks are worth writing: those of contexts of at least `min_tokens`, once they were met `touches` times."""

    touches: int = 1
    min_tokens: int = 0


class WriteBehind:
    """Blocks wait as candidates, without being held, until the writer has time for them; then they are pinned and written.

    A candidate whose slot is needed first is lost to the store: the cache never keeps a request waiting.
    """

    def __init__(
        self, tier: Tier, pools: Sequence[BlockPool], groups: Sequence[KVGroup], arena: Arena, policy: WritePolicy
    ) -> None:
        self.policy = policy
        self._tier = tier
        self._pools = pools
        self._groups = groups
        self._arena = arena
        self._candidates: OrderedDict[tuple[int, BlockHash], KVBlock] = OrderedDict()
        self._handed: OrderedDict[WriteBlock, None] = OrderedDict()
        self._written: list[BlockKey] = []  # since the store was last told what was used
        self._touched: dict[BlockKey, None] = {}
        self._busy = False

    @property
    def num_waiting(self) -> int:
        """Blocks that are still to be written."""
        return len(self._candidates) + len(self._handed)

    def offer(self, group: int, block: KVBlock) -> None:
        """Puts a sealed block forward for writing, if it was met often enough."""
        if block.stored or block.block_hash is None or block.touches < self.policy.touches:
            return
        self._candidates[group, block.block_hash] = block

    def touch(self, group: int, blocks: Sequence[KVBlock]) -> None:
        """Says that a prefix was used, so that its stored copies are kept, its start before its end."""
        for block in reversed(blocks):
            if block.stored and block.block_hash is not None:
                key = self._tier.key(group, block.block_hash)
                self._touched.pop(key, None)
                self._touched[key] = None

    def evicted(self, group: int, block: KVBlock) -> None:
        """A block lost its slot; if it was waiting to be written, it is lost."""
        if block.block_hash is not None and self._candidates.pop((group, block.block_hash), None) is not None:
            self._tier.counts["blocks_dropped"] += 1

    def set_busy(self, busy: bool) -> None:
        """Says whether the engine computes: then writing keeps to a share of a processor, else it takes all it needs."""
        self._busy = busy
        self._tier.movers.pace.set_busy(busy)
        if busy:
            self._take_back(_MOST_WAITING)
        self.hand_over()

    def make_room(self) -> None:
        """Takes back every pin whose write has not begun: their slots are needed."""
        self._take_back(0)

    def hand_over(self) -> None:
        """Gives the writer the next candidates."""
        if self._tier.writing.is_open:
            return
        most = _MOST_WAITING if self._busy else len(self._candidates) + len(self._handed)
        while self._candidates and len(self._handed) < most:
            (group, block_hash), block = self._candidates.popitem(last=False)
            if block.block_hash == block_hash:  # not forgotten meanwhile
                self._hand(group, block)
        num_used = len(self._written) + len(self._touched)
        if num_used >= _TOUCHES or (num_used and not self._busy):
            # Written start first, so that what is there can be used; to be evicted end first, for the same reason.
            used = dict.fromkeys(reversed(self._written)) | self._touched
            self._tier.movers.submit_write(Errand(partial(self._tier.store.touch, list(used))))
            self._written.clear()
            self._touched.clear()

    def discard(self, keys: Sequence[BlockKey]) -> None:
        """Removes objects that failed their check, so that they can be written anew."""
        self._tier.movers.submit_write(Errand(partial(self._tier.store.delete, keys, inf)))

    def ended(self, job: Job) -> None:
        """Takes back a block that the writer is done with."""
        if not isinstance(job, WriteBlock):
            return
        del self._handed[job]
        self._pools[job.key.group].unpin(job.block)
        counts = self._tier.counts
        if job.status is None or job.status is Status.OK:
            job.block.stored = True
            self._written.append(job.key)
            counts["blocks_written"] += job.status is Status.OK
            counts["bytes_written"] += job.bytes_written
            self._tier.writing.succeeded()
        else:
            counts["blocks_dropped"] += 1
            self._tier.failed(self._tier.writing, "write", f"{job.status.value}: {job.detail}")

    def _hand(self, group: int, block: KVBlock) -> None:
        assert block.block_hash is not None, "candidates are sealed"
        layout = self._groups[group].layout
        view = self._arena.block(group, block.device.slot)
        job = WriteBlock(self._tier.store, self._tier.key(group, block.block_hash), block, layout, view)
        self._pools[group].pin(block)
        self._handed[job] = None
        self._tier.movers.submit_write(job)

    def _take_back(self, keep: int) -> None:
        """Cancels what was handed over last and not begun, until `keep` are left; those wait as candidates again, in order."""
        for job in reversed(list(self._handed)[keep:]):
            if job.cancel() and job.state is State.CANCELLED:
                del self._handed[job]
                self._pools[job.key.group].unpin(job.block)
                key = job.key.group, job.key.block_hash
                self._candidates[key] = job.block
                self._candidates.move_to_end(key, last=False)
