"""Stores for tests: keys and contents at will, and a store that misbehaves on command."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from hashlib import shake_128
from math import inf
from random import Random

from tiercel.stores import Entry, Read, Result, Status, Store, Usage, Write
from tiercel.types import BlockHash, BlockKey

SPACE, OTHER_SPACE = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def key_of(number: int, namespace: str = SPACE, group: int = 0, heads: tuple[int, int] = (0, 8)) -> BlockKey:
    """A key like no other number's."""
    return BlockKey(namespace, BlockHash(shake_128(b"%d" % number).digest(32)), group, heads)


def content_of(key: BlockKey, size: int) -> bytes:
    """The bytes that tests store under a key."""
    return shake_128(repr(key).encode()).digest(size)


def write_of(key: BlockKey, size: int = 100) -> Write:
    return Write(key, (memoryview(content_of(key, size)),))


def put(store: Store, *keys: BlockKey, size: int = 100) -> list[Status]:
    """Stores the keys' contents."""
    return [result.status for result in store.put([write_of(key, size) for key in keys], inf)]


def get(store: Store, key: BlockKey, size: int = 100) -> bytes | None:
    """Up to `size` bytes of an object; None where there is none."""
    buffer = bytearray(size)
    result = store.get([Read(key, 0, (memoryview(buffer),))], inf)[0]
    if result.status is Status.MISSING:
        return None
    assert result.status is Status.OK, result
    return bytes(buffer[: result.bytes])


def keys_in(store: Store) -> set[BlockKey]:
    return {entry.key for entry in store.list()}


class Fault(Enum):
    """What may happen to one key of a batch, or to a call that has none."""

    ERROR = auto()  # FAILED; OSError from a method that may raise
    FULL = auto()
    MISSING = auto()
    LATE = auto()
    LOST = auto()  # a put answers OK and keeps nothing
    SHORT = auto()  # a get fills less than there is
    FLIP = auto()  # a get fills in one wrong bit


# Decides what happens: (method, key, or None for a method without keys) -> a fault or none. Asked once per key.
Plan = Callable[[str, BlockKey | None], Fault | None]

_ANSWERS = {
    Fault.ERROR: Result(Status.FAILED, detail="Input/output error"),
    Fault.FULL: Result(Status.FULL, detail="No space left on device"),
    Fault.MISSING: Result(Status.MISSING),
    Fault.LATE: Result(Status.LATE),
}
_POSSIBLE = {
    "get": set(Fault) - {Fault.FULL, Fault.LOST},
    "put": {Fault.ERROR, Fault.FULL, Fault.LATE, Fault.LOST},
    "delete": {Fault.ERROR, Fault.MISSING, Fault.LATE},
    "exists": {Fault.ERROR, Fault.MISSING, Fault.LATE},
}


def at_random(random: Random, probabilities: Mapping[Fault, float]) -> Plan:
    """Draws a fault, or none, for each key. probabilities: of each fault, together at most 1."""
    faults = [*probabilities, None]
    weights = [*probabilities.values(), 1 - sum(probabilities.values())]
    return lambda method, key: random.choices(faults, weights)[0]


def no_faults(method: str, key: BlockKey | None) -> Fault | None:
    """Nothing goes wrong."""


class FaultyStore:
    """Another store with faults. A fault that a method cannot have is passed over. seed: of where bits flip and reads end.

    While `gate` is cleared, every call but `touch` waits before it does anything; `waiting` counts the calls that do.
    """

    def __init__(self, inner: Store, plan: Plan = no_faults, seed: int = 0) -> None:
        self.name = inner.name
        self.inner = inner
        self.plan = plan
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0
        self._random = Random(seed)
        self._lock = threading.Lock()  # the plan may draw from a generator

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        faults = self._faults("exists", keys)
        there = self.inner.exists(keys, deadline)
        return [fault is None and found for fault, found in zip(faults, there, strict=True)]

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        faults = self._faults("get", [read.key for read in reads])
        return [self._get(read, deadline, fault) for read, fault in zip(reads, faults, strict=True)]

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        faults = self._faults("put", [write.key for write in writes])
        return [self._put(write, deadline, fault) for write, fault in zip(writes, faults, strict=True)]

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        faults = self._faults("delete", keys)
        return [
            _ANSWERS[fault] if fault is not None else self.inner.delete([key], deadline)[0]
            for key, fault in zip(keys, faults, strict=True)
        ]

    def touch(self, keys: Sequence[BlockKey]) -> None:
        self.inner.touch(keys)

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        self._may_raise("list")
        return self.inner.list(namespace)

    def describe(self, namespace: str, description: bytes) -> None:
        self._may_raise("describe")
        self.inner.describe(namespace, description)

    def namespaces(self) -> Mapping[str, bytes]:
        self._may_raise("namespaces")
        return self.inner.namespaces()

    def clear(self, namespace: str | None = None) -> int:
        self._may_raise("clear")
        return self.inner.clear(namespace)

    def usage(self) -> Usage:
        self._may_raise("usage")
        return self.inner.usage()

    def check_integrity(self) -> None:
        self.inner.check_integrity()

    def close(self) -> None:
        self.inner.close()

    def _get(self, read: Read, deadline: float, fault: Fault | None) -> Result:
        if fault in _ANSWERS:
            return _ANSWERS[fault]
        result = self.inner.get([read], deadline)[0]
        if fault is None or not result.bytes:
            return result
        if fault is Fault.SHORT:
            return Result(Status.OK, self._random.randrange(result.bytes))
        buffer = self._random.choice([buffer for buffer in read.buffers if buffer.nbytes]).cast("B")
        buffer[self._random.randrange(buffer.nbytes)] ^= 1 << self._random.randrange(8)
        return result

    def _put(self, write: Write, deadline: float, fault: Fault | None) -> Result:
        if fault in _ANSWERS:
            return _ANSWERS[fault]
        return Result(Status.OK, write.bytes) if fault is Fault.LOST else self.inner.put([write], deadline)[0]

    def _faults(self, method: str, keys: Sequence[BlockKey]) -> Sequence[Fault | None]:
        self._wait()
        with self._lock:
            faults = [self.plan(method, key) for key in keys]
        return [fault if fault in _POSSIBLE[method] else None for fault in faults]

    def _may_raise(self, method: str) -> None:
        self._wait()
        with self._lock:
            fault = self.plan(method, None)
        if fault is Fault.ERROR:
            raise OSError("Input/output error")

    def _wait(self) -> None:
        with self._lock:
            self.waiting += 1
        self.gate.wait()
        with self._lock:
            self.waiting -= 1
