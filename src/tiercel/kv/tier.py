"""A tier below the device: its store, the threads that move blocks to and from it, its health and its counts."""

from collections import Counter
from collections.abc import Sequence

from tiercel.kv.breaker import Breaker
from tiercel.kv.errands import Introduce, Recall
from tiercel.kv.hashing import block_hash, namespace_id, root_hash
from tiercel.kv.movers import Job, Movers, Pace
from tiercel.kv.namespaces import difference, read_description, write_description
from tiercel.stores import Store
from tiercel.telemetry import get_logger
from tiercel.types import BlockHash, BlockKey, KVGroup, Namespace

log = get_logger("tiercel.kv")

WRITE_CPU_SHARE = 0.03  # of one processor, while the engine computes
_MOST_RECALLED = 4096  # stored blocks whose tokens are remembered, to explain misses
_MOST_OTHERS = 16  # namespaces that a miss is looked for in


class Tier:
    """What look-ups, loads and writes share. Used by the thread that steps the engine; only jobs touch the store.

    counts: what happened so far, by name, as metrics show it.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        namespace: Namespace,
        groups: Sequence[KVGroup],
        *,
        bytes_per_second: float = float("inf"),
    ) -> None:
        self.name = name
        self.store = store
        self.movers = Movers(Pace(WRITE_CPU_SHARE, bytes_per_second))
        self.reading = Breaker()
        self.writing = Breaker()
        self.counts: Counter[str] = Counter()
        self._groups = groups
        self._namespace = namespace
        self._namespace_id = namespace_id(namespace)
        self._others: dict[str, Namespace] = {}
        self.introduced = False  # whether the store has said which other namespaces there are
        self.recall = Recall(store, self._namespace_id, _MOST_RECALLED)
        self.movers.submit_write(Introduce(store, self._namespace_id, write_description(namespace)))
        self.movers.submit_write(self.recall)

    def key(self, group: int, block_hash: BlockHash, namespace: str = "") -> BlockKey:
        """The name of a block's object, in this engine's namespace unless another is given."""
        return BlockKey(namespace or self._namespace_id, block_hash, group, (0, self._groups[group].layout.num_kv_heads))

    def elsewhere(self, first_tokens: bytes, salt: str) -> list[BlockKey]:
        """What a prompt's first block would be called in the same tenant's other namespaces."""
        return [self.key(0, block_hash(root_hash(other, salt), first_tokens), name) for name, other in self._others.items()]

    def difference(self, namespace: str) -> str:
        """What tells another namespace from this engine's, for people."""
        other = self._others.get(namespace)
        return difference(self._namespace, other) if other is not None else ""

    def failed(self, breaker: Breaker, what: str, reason: str) -> None:
        """Counts a failure of the store, and tells of it when the breaker opens."""
        self.counts[f"{what}_failures"] += 1
        if breaker.failed():
            self.counts["breaker_trips"] += 1
            log.warning("the KV store fails; it is left alone for a while", tier=self.name, doing=what, reason=reason)

    def ended(self, job: Job) -> None:
        """Takes in what the store said of other namespaces."""
        if isinstance(job, Introduce):
            self.introduced = True
            found = {name: read_description(text, self._namespace.tenant) for name, text in job.others.items()}
            self._others = dict([(name, other) for name, other in found.items() if other is not None][:_MOST_OTHERS])

    def close(self, seconds: float) -> None:
        """Ends the threads, once what they were given is done or so many seconds have passed."""
        if self.movers.close(seconds):
            self.store.close()
        else:
            log.warning("the KV store did not come to an end in time; it is left behind", tier=self.name, seconds=seconds)
