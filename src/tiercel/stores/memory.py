"""Objects in this process's memory: the plainest store, and the one that every other is compared with."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from tiercel.stores.base import Entry, Read, Result, Status, Usage, Write
from tiercel.stores.batch import in_turn
from tiercel.types import BlockKey


class MemoryStore:
    """Keeps copies of what it is given, up to `capacity` bytes (None = no limit)."""

    name = "memory"

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._objects: OrderedDict[BlockKey, bytes] = OrderedDict()  # used longest ago first
        self._descriptions: dict[str, bytes] = {}
        self._bytes = 0
        self._evicted = 0

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        with self._lock:
            return [time.monotonic() < deadline and key in self._objects for key in keys]

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        return in_turn(reads, deadline, self._get)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        return in_turn(writes, deadline, self._put)

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        return in_turn(keys, deadline, self._delete)

    def touch(self, keys: Sequence[BlockKey]) -> None:
        with self._lock:
            for key in keys:
                if key in self._objects:
                    self._objects.move_to_end(key)

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        with self._lock:
            return iter([Entry(key, len(data)) for key, data in self._objects.items() if namespace in (None, key.namespace)])

    def describe(self, namespace: str, description: bytes) -> None:
        with self._lock:
            self._descriptions.setdefault(namespace, description)

    def namespaces(self) -> Mapping[str, bytes]:
        with self._lock:
            return {key.namespace: b"" for key in self._objects} | self._descriptions

    def clear(self, namespace: str | None = None) -> int:
        with self._lock:
            gone = [key for key in self._objects if namespace in (None, key.namespace)]
            for key in gone:
                self._bytes -= len(self._objects.pop(key))
            return len(gone)

    def usage(self) -> Usage:
        with self._lock:
            return Usage(len(self._objects), self._bytes, self._capacity, evicted=self._evicted)

    def check_integrity(self) -> None:
        with self._lock:
            assert self._bytes == sum(map(len, self._objects.values()))
            assert self._capacity is None or self._bytes <= self._capacity

    def close(self) -> None:
        """Nothing is held open; the objects go when the store does."""

    def _get(self, read: Read) -> Result:
        with self._lock:
            data = self._objects.get(read.key)
        if data is None:
            return Result(Status.MISSING)
        rest = memoryview(data)[read.offset :]
        filled = 0
        for buffer in read.buffers:
            part = rest[filled : filled + buffer.nbytes]
            if part:
                buffer.cast("B")[: len(part)] = part
            filled += len(part)
        return Result(Status.OK, filled)

    def _put(self, write: Write) -> Result:
        data = b"".join(write.buffers)
        with self._lock:
            if write.key in self._objects:
                self._objects.move_to_end(write.key)
                return Result(Status.OK)
            if self._capacity is not None:
                if len(data) > self._capacity:
                    return Result(Status.FULL, detail=f"{len(data)} bytes are more than the capacity of {self._capacity}")
                while self._bytes + len(data) > self._capacity:
                    self._bytes -= len(self._objects.popitem(last=False)[1])
                    self._evicted += 1
            self._objects[write.key] = data
            self._bytes += len(data)
        return Result(Status.OK, len(data))

    def _delete(self, key: BlockKey) -> Result:
        with self._lock:
            data = self._objects.pop(key, None)
            if data is None:
                return Result(Status.MISSING)
            self._bytes -= len(data)
        return Result(Status.OK)
