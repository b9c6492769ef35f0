"""One file per object, in folders that the processes of one user share without a server between them."""

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tiercel.stores.base import Entry, Read, Result, Status, Usage, Write
from tiercel.stores.batch import in_turn
from tiercel.stores.file.folders import (
    DESCRIPTION,
    TEMPORARY,
    Amount,
    amount,
    claim,
    namespace_folders,
    remove_object,
    stored_objects,
    versions,
)
from tiercel.stores.file.ledger import Ledger, NoRoom
from tiercel.stores.file.names import is_namespace, object_name
from tiercel.stores.file.temporary import new_file, publish
from tiercel.stores.file.transfer import read_into
from tiercel.types import FORMAT_VERSION, BlockKey

# A link is no object, and what is no plain file must not keep an open() waiting.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_TOO_LARGE = {errno.EFBIG}


class FileStore:
    """Objects under `root`, at most `capacity` bytes, while `free_floor` bytes stay free on the file system.

    Any number of processes of one user may have a store on the same root; capacity is what they share. Raises OSError where the
    root can neither be found nor made, or other users may write to it. A root this process may not write to can be read.
    Nothing is forced to the disk: after a power cut a young object may be torn, which its reader's checks find.
    """

    name = "file"

    def __init__(self, root: Path, *, capacity: int, free_floor: int) -> None:
        claim(root)
        self._root = root
        self._folder = root / f"v{FORMAT_VERSION}"
        self._lock = threading.Lock()  # for the ledger
        self._ledger = Ledger(root, capacity=capacity, free_floor=free_floor)

    # -- objects --------------------------------------------------------------------------------------------------------------

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        return [time.monotonic() < deadline and self._has(object_name(key)) for key in keys]

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        return in_turn(reads, deadline, self._get)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        results = in_turn(writes, deadline, self._put)
        self.touch([write.key for write, result in zip(writes, results, strict=True) if result == _THERE_ALREADY])
        return results

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        return in_turn(keys, deadline, self._delete)

    def touch(self, keys: Sequence[BlockKey]) -> None:
        if keys:
            with self._lock:
                self._ledger.used([object_name(key) for key in keys])

    # -- the whole ------------------------------------------------------------------------------------------------------------

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        return (Entry(found.key, found.bytes) for found in stored_objects(self._folder, namespace))

    def describe(self, namespace: str, description: bytes) -> None:
        if not is_namespace(namespace):
            raise ValueError(f"{namespace!r} is not the id of a namespace")
        path = self._folder / namespace / DESCRIPTION
        if not path.exists():
            with new_file(self._folder / TEMPORARY, [memoryview(description)]) as file:
                publish(file, path)

    def namespaces(self) -> Mapping[str, bytes]:
        found = {}
        for folder in namespace_folders(self._folder):
            try:
                found[folder.name] = (folder / DESCRIPTION).read_bytes()
            except FileNotFoundError:
                if any(True for _ in stored_objects(self._folder, folder.name)):
                    found[folder.name] = b""
        return found

    def clear(self, namespace: str | None = None) -> int:
        with self._lock:
            return self._ledger.clear(namespace)

    def usage(self) -> Usage:
        amounts = {number: amount(folder) for number, folder in versions(self._root).items()}
        current = amounts.get(FORMAT_VERSION, Amount(0, 0))
        old = [held for number, held in amounts.items() if number < FORMAT_VERSION]
        return Usage(
            objects=current.objects,
            bytes=current.bytes,
            capacity=self._ledger.capacity,
            old_objects=sum(held.objects for held in old),
            old_bytes=sum(held.bytes for held in old),
            newer_bytes=sum(held.bytes for number, held in amounts.items() if number > FORMAT_VERSION),
            evicted=self._ledger.evicted,
        )

    def check_integrity(self) -> None:
        with self._lock:
            self._ledger.check_integrity()

    def close(self) -> None:
        """Nothing is held open; the objects stay."""

    # -- one object -----------------------------------------------------------------------------------------------------------

    def _get(self, read: Read) -> Result:
        try:
            fd = os.open(self._folder / object_name(read.key), _READ)
        except OSError as error:
            return Result(Status.MISSING) if error.errno in _ABSENT else _failure(error)
        try:
            return Result(Status.OK, read_into(fd, read.offset, read.buffers))
        except OSError as error:
            return _failure(error)
        finally:
            os.close(fd)

    def _put(self, write: Write) -> Result:
        name, size = object_name(write.key), write.bytes
        if self._has(name):
            return _THERE_ALREADY
        try:
            self._write(name, size, write.buffers)
        except NoRoom as full:
            return Result(Status.FULL, detail=str(full))
        except OSError as error:
            if error.errno in _NO_ROOM:
                with self._lock, suppress(OSError):
                    self._ledger.give_way(size)
            return _failure(error)
        return Result(Status.OK, size)

    def _write(self, name: str, size: int, buffers: Sequence[memoryview]) -> None:
        with self._lock:
            self._ledger.reserve(size)
        try:
            with new_file(self._folder / TEMPORARY, buffers) as file:
                publish(file, self._folder / name)
        except BaseException:
            with self._lock:
                self._ledger.release(size)
            raise
        with self._lock:
            self._ledger.put(name, size)

    def _delete(self, key: BlockKey) -> Result:
        name = object_name(key)
        if not self._has(name):
            return Result(Status.MISSING)
        try:
            return Result(Status.OK if remove_object(self._folder, name) else Status.MISSING)
        except OSError as error:
            return _failure(error)

    def _has(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self._folder / name).st_mode)
        except OSError:
            return False


_THERE_ALREADY = Result(Status.OK)


def _failure(error: OSError) -> Result:
    status = Status.FULL if error.errno in _NO_ROOM | _TOO_LARGE else Status.FAILED
    return Result(status, detail=error.strerror or str(error))
