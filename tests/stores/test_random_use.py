"""Stores under any calls in any order, against a dictionary in order of use."""

from collections import OrderedDict
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.stores.children import open_store
from tests.support.stores import OTHER_SPACE, SPACE, content_of, key_of, keys_in, write_of
from tiercel.stores import Entry, MemoryStore, Read, Result, Status

KEYS = st.integers(0, 30).map(lambda number: key_of(number, SPACE if number % 3 else OTHER_SPACE))
BATCHES = st.lists(KEYS, max_size=4)


class RandomUse(RuleBasedStateMachine):
    """A store in memory. It may evict more than it must, but in the order of use."""

    @initialize(capacity=st.sampled_from([500, 1500, 10**9]))
    def start(self, capacity):
        self.folder = TemporaryDirectory()
        self.capacity = capacity
        self.open()
        self.model = OrderedDict()

    def open(self):
        self.store = MemoryStore(self.capacity)

    @rule(keys=BATCHES, size=st.integers(0, 600))
    def put(self, keys, size):
        for key in keys:  # one by one: what one put evicts, the next sees
            [result] = self.store.put([write_of(key, size)], inf)
            if key in self.model:
                self.model.move_to_end(key)
                assert result == Result(Status.OK)
            elif size <= self.capacity:
                self.model[key] = size
                assert result == Result(Status.OK, size)
            else:
                assert result.status is Status.FULL
            self.settle()

    def settle(self):
        """Forgets what the store evicted, which must have been the oldest, and needed."""
        held = keys_in(self.store)
        order = list(self.model)
        assert held == set(order[len(order) - len(held) :])
        if len(held) < len(order):
            assert sum(self.model.values()) > self.capacity
        for key in order[: len(order) - len(held)]:
            del self.model[key]
        assert sum(self.model.values()) <= self.capacity

    @rule(keys=BATCHES)
    def touch(self, keys):
        self.store.touch(keys)
        for key in keys:
            if key in self.model:
                self.model.move_to_end(key)

    @rule(keys=BATCHES)
    def delete(self, keys):
        expected = [Result(Status.OK if self.model.pop(key, None) is not None else Status.MISSING) for key in keys]
        assert self.store.delete(keys, inf) == expected

    @rule(key=KEYS, offset=st.integers(0, 700), sizes=st.lists(st.integers(0, 300), max_size=3))
    def get(self, key, offset, sizes):
        buffers = [bytearray(size) for size in sizes]
        [result] = self.store.get([Read(key, offset, [memoryview(b) for b in buffers])], inf)
        if key not in self.model:
            assert result == Result(Status.MISSING)
            return
        expected = content_of(key, self.model[key])[offset:][: sum(sizes)]
        assert result == Result(Status.OK, len(expected))
        assert b"".join(buffers)[: len(expected)] == expected

    @rule(namespace=st.sampled_from([None, SPACE, OTHER_SPACE]))
    def clear(self, namespace):
        gone = [key for key in self.model if namespace in (None, key.namespace)]
        assert self.store.clear(namespace) == len(gone)
        for key in gone:
            del self.model[key]

    @invariant()
    def it_holds_what_it_should(self):
        if not hasattr(self, "store"):
            return
        assert set(self.store.list()) == {Entry(key, size) for key, size in self.model.items()}
        usage = self.store.usage()
        assert (usage.objects, usage.bytes) == (len(self.model), sum(self.model.values()))
        self.store.check_integrity()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


class RandomUseOfFiles(RandomUse):
    """A store on disk, used in turn by two processes that come and go."""

    def open(self):
        self.store, self.other = (open_store(Path(self.folder.name), self.capacity) for _ in range(2))

    @rule()
    def take_turns(self):
        self.store, self.other = self.other, self.store

    @rule()
    def restart(self):
        self.store.close()
        self.store = open_store(Path(self.folder.name), self.capacity)


TestRandomUse = RandomUse.TestCase
TestRandomUseOfFiles = RandomUseOfFiles.TestCase
TestRandomUse.settings = settings(max_examples=50, stateful_step_count=30)
TestRandomUseOfFiles.settings = settings(max_examples=50, stateful_step_count=30)
