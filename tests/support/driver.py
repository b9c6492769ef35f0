"""Engines over stores that misbehave, driven step by step; whatever a request gets is compared with the plain loop."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic

from tests.support.engines import Setup, collect, make_core, null_executor, plain_loop, settle, submit
from tests.support.stores import FaultyStore, Plan, no_faults
from tiercel.engine.messages import Abort, Submit
from tiercel.kv.errands import Errand
from tiercel.kv.movers import State
from tiercel.kv.objects import object_bytes
from tiercel.models.null import null_groups
from tiercel.stores import MemoryStore, Store
from tiercel.types import BLOCK_TOKENS, Reuse

GROUPS = null_groups()
MAKE = null_executor(vocab_size=10**6)
OBJECT_BYTES = object_bytes(GROUPS[0].layout)
SECONDS = 60.0  # in which something must happen that takes no time


def prompt(name: str, blocks: int, more: int = 1) -> list[int]:
    """Token ids for so many blocks and some more; prompts of one name begin alike."""
    random = Random(name)
    return [random.randrange(10**6) for _ in range(blocks * BLOCK_TOKENS + more)]


class GuardedStore(FaultyStore):
    """Notes which thread calls. Calls of the methods in `stuck` do not return until these are no longer stuck.

    calls: how often each method was called; by_engine: those that the thread which made the store called.
    """

    def __init__(self, inner: Store | None = None, plan: Plan = no_faults) -> None:
        super().__init__(inner or MemoryStore(), plan)
        self.calls: Counter[str] = Counter()
        self.by_engine: list[str] = []
        self.stuck: set[str] = set()
        self._engine = threading.get_ident()
        self._changed = threading.Condition()

    def free(self) -> None:
        """Nothing is stuck any more."""
        with self._changed:
            self.stuck = set()
            self._changed.notify_all()

    def exists(self, keys, deadline):
        self._enter("exists")
        return super().exists(keys, deadline)

    def get(self, reads, deadline):
        self._enter("get")
        return super().get(reads, deadline)

    def put(self, writes, deadline):
        self._enter("put")
        return super().put(writes, deadline)

    def delete(self, keys, deadline):
        self._enter("delete")
        return super().delete(keys, deadline)

    def touch(self, keys):
        self._enter("touch")
        super().touch(keys)

    def describe(self, namespace, description):
        self._enter("describe")
        super().describe(namespace, description)

    def namespaces(self):
        self._enter("namespaces")
        return super().namespaces()

    def _enter(self, method: str) -> None:
        self.calls[method] += 1
        if threading.get_ident() == self._engine:
            self.by_engine.append(method)
        with self._changed:
            self._changed.wait_for(lambda: method not in self.stuck)


class Driver:
    """One engine. `with` it: at the end, whatever was stuck is freed, and every slot must have been given back.

    patient: whether loading always counts as faster than computing, which the null model does in no time.
    """

    def __init__(self, store: GuardedStore, *, patient: bool = True, **settings: object) -> None:
        self.store = store
        self.setup = Setup(**{"num_blocks": 16, "max_num_batched_tokens": 256, **settings})
        self.core = make_core(self.setup, GROUPS, MAKE, store)
        if patient:
            self.core.manager.computed = lambda num_tokens, seconds: None
        self.reuse: dict[str, Reuse] = {}
        self.finished: list[str] = []
        self._requests: dict[str, Submit] = {}
        self._tokens: dict[tuple[str, int], list[int]] = {}
        if self.setup.prefix_caching:
            self._wait_for_introductions()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.store.free()
        if kind is None:
            settle(self.core)
            self.core.check_integrity()
            assert all(pool.num_free == pool.num_blocks for pool in self.core.manager.pools), "blocks leaked"
            assert not self.store.by_engine, "the engine's own thread called the store"
        self.core.close()

    def _wait_for_introductions(self) -> None:
        """Until what the tier does at the start is done."""
        marker = Errand(lambda: None)
        self.core.manager._below.tier.movers.submit_write(marker)
        self.until(lambda: marker.state is State.DONE)
        self.step()

    @property
    def counts(self) -> Counter[str]:
        """What the tier counted; 0 for what never happened."""
        return Counter(self.core.stats().tier)

    @property
    def num_held(self) -> int:
        return self.core.stats().kv_blocks_used

    def submit(self, name: str, token_ids: Sequence[int], **params: object) -> None:
        assert name not in self._requests
        self._requests[name] = submit(name, token_ids, **{"max_tokens": 3, **params})
        self.core.submit(self._requests[name])

    def abort(self, name: str) -> None:
        self.core.abort(Abort(name))

    def step(self) -> None:
        updates = self.core.step()
        self.core.check_integrity()
        collect(self._tokens, updates)
        for update in updates:
            if update.reuse is not None:
                self.reuse[update.request_id] = update.reuse
            if update.finish_reason is not None:
                self.finished.append(update.request_id)
                expected = plain_loop(self._requests[update.request_id], GROUPS, MAKE)[0]
                assert self._tokens[update.request_id, 0] == expected, update.request_id

    def until(self, condition: Callable[[], bool]) -> None:
        end = monotonic() + SECONDS
        while not condition():
            assert monotonic() < end, "it does not come to that"
            self.step()
            if not self.core.has_work:
                self.core.manager.wait(0.001)  # let the movers run

    def looked_up(self, name: str) -> None:
        """Waits, without a step, until the store has answered what it has of a request."""
        while self.core.manager.is_looking(f"{name}/0"):
            self.core.manager.wait(SECONDS)
            self.core.manager.poll()

    def run(self) -> None:
        """Until nothing is left to do."""
        self.until(lambda: not self.core.has_work)

    def ask(self, name: str, token_ids: Sequence[int], **params: object) -> Reuse:
        """Runs one request, and all others, to the end. Returns where its prompt's tokens came from."""
        self.submit(name, token_ids, **params)
        self.run()
        return self.reuse[name]

    def written(self) -> None:
        """Waits until all is written that is worth it."""
        self.until(lambda: not self.counts["blocks_waiting"])


def store_with(*prompts: Sequence[int]) -> GuardedStore:
    """A store that an engine left behind which answered these prompts."""
    store = GuardedStore()
    with Driver(store, num_blocks=64) as driver:
        for number, token_ids in enumerate(prompts):
            driver.ask(f"before {number}", token_ids, max_tokens=1)
    return store
