"""Everything that goes on between the device and the tier below it."""

from collections.abc import Sequence
from queue import Empty

from tiercel.kv.arena import Arena
from tiercel.kv.history import History
from tiercel.kv.pool import BlockPool
from tiercel.kv.retrieval import Retrieval
from tiercel.kv.tier import Tier
from tiercel.kv.write_behind import WriteBehind, WritePolicy
from tiercel.types import BlockHash, KVGroup

_REMEMBERED_AT_ONCE = 64


class Traffic:
    """Both directions, and the round in which finished work is taken in. Belongs to the thread that steps the engine."""

    def __init__(
        self,
        tier: Tier,
        pools: Sequence[BlockPool],
        groups: Sequence[KVGroup],
        arena: Arena,
        policy: WritePolicy,
        history: History,
    ) -> None:
        self.tier = tier
        self._history = history
        self.up = Retrieval(tier, pools, groups, arena, self.make_room, history)
        self.down = WriteBehind(tier, pools, groups, arena, policy)

    def poll(self) -> None:
        """Takes in what the movers have finished and gives them the next blocks to write. Never waits."""
        for job in self.tier.movers.take_ended():
            self.tier.ended(job)
            self.up.ended(job)
            self.down.ended(job)
        self.up.check_deadlines()
        if self.up.corrupt:
            self.down.discard(self.up.corrupt)
            self.up.corrupt = []
        self.down.hand_over()
        self._remember()

    def make_room(self) -> None:
        """Frees slots that only wait to be written."""
        self.down.make_room()

    def _remember(self) -> None:
        """Takes in some of what the store was found to hold, so that misses can be explained after a restart, too."""
        for _ in range(_REMEMBERED_AT_ONCE):
            try:
                header = self.tier.recall.found.get_nowait()
            except Empty:
                return
            self._history.stored(BlockHash(header.block_hash), header.content)

    def close(self, seconds: float) -> None:
        """Writes what is still to be written, as far as `seconds` allow, and ends the threads."""
        self.down.set_busy(False)
        self.tier.close(seconds)

    def counts(self) -> dict[str, float]:
        """What happened so far and what is waiting, by the names that metrics show."""
        return {
            **self.tier.counts,
            "loads_running": self.up.num_loading,
            "blocks_waiting": self.down.num_waiting,
            "write_cpu_seconds": self.tier.movers.pace.cpu_seconds,
            "read_breaker_open": float(self.tier.reading.is_open),
            "write_breaker_open": float(self.tier.writing.is_open),
        }
