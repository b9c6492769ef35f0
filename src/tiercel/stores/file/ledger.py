"""Room: how much of it is taken, by this process and by the others that share the folder, and what goes when it is short."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tiercel.stores.file.books import Books
from tiercel.stores.file.folders import (
    SWEEP_LOCK,
    TEMPORARY,
    USAGE_LOG,
    Amount,
    amount,
    make_folder,
    remove_object,
    remove_version,
    stored_objects,
    versions,
)
from tiercel.stores.file.log import PUT, USED, Line, UsageLog
from tiercel.stores.file.temporary import collect
from tiercel.types import FORMAT_VERSION

_SLACK = 10  # a sweep removes one part in so many beyond what it must, to be worth its while
_SMALL_LOG = 4 * 2**20  # bytes; one that is smaller is not worth compacting


class NoRoom(Exception):
    """An object that cannot be stored unless something goes that this process cannot remove. The message says so."""


class Ledger:
    """Keeps a store within its limits. Called under the store's lock.

    Each process has books of its own. They start from a listing of the folders and follow the log that all processes write;
    when they say that room is short, the folders are listed again, what was used longest ago is removed, and the log is
    written anew. Processes that write at the same moment may exceed the capacity by the objects that each has in hand.
    """

    def __init__(self, root: Path, *, capacity: int, free_floor: int) -> None:
        self.capacity = capacity
        self.evicted = 0  # objects this process removed to make room
        self._root = root
        self._free_floor = free_floor
        self._folder = root / f"v{FORMAT_VERSION}"
        self._log = UsageLog(self._folder / USAGE_LOG, self._folder / TEMPORARY)
        self._sweep_lock = self._folder / SWEEP_LOCK
        self._books = Books()
        self._older_versions = 0  # bytes
        self._newer_versions = 0  # bytes
        self._in_hand = 0  # bytes of objects that this process is writing
        self._large_log = _SMALL_LOG  # bytes; above it the log is compacted

    # -- what the store says --------------------------------------------------------------------------------------------------

    def reserve(self, size: int) -> None:
        """Makes room for an object that is about to be written, until `put` or `release`. Raises NoRoom, OSError."""
        if size > self.capacity:
            raise NoRoom(f"{size} bytes are more than the capacity of {self.capacity}")
        self._prepare()
        self._follow()
        if self._shortage(size) > 0:
            self._sweep(size)
            if self._shortage(size) > 0:
                raise NoRoom(
                    f"no room for {size} bytes: {self._taken} of {self.capacity} are taken, "
                    f"{self._free} are free on the file system, where {self._free_floor} must stay free"
                )
        self._in_hand += size

    def release(self, size: int) -> None:
        """The object will not come after all."""
        self._in_hand -= size

    def give_way(self, size: int) -> None:
        """Removes so much although the numbers look well: the system has no room, for a reason of its own. Raises OSError."""
        self._sweep(size, at_least=size)

    def put(self, name: str, size: int) -> None:
        """The object is there now."""
        self._in_hand -= size
        self._note([Line(PUT, name, size)])

    def used(self, names: Sequence[str]) -> None:
        """Objects were used, the most valuable last."""
        self._note([Line(USED, name) for name in dict.fromkeys(names)])

    def clear(self, namespace: str | None) -> int:
        """Removes all objects, or those of one namespace. Returns how many. Raises OSError."""
        with self._alone(wait=True):
            removed = sum(remove_object(self._folder, found.name) for found in stored_objects(self._folder, namespace))
            if namespace is None:
                removed += self._remove_old_versions().objects
            self._look()
            self._rewrite_log()
        return removed

    def check_integrity(self) -> None:
        """Raises AssertionError if there are objects that are not in the books, and so take room that nobody counts.

        No other process may be writing meanwhile: what was renamed and not yet logged would be a false alarm.
        """
        self._follow()
        unknown = [found for found in stored_objects(self._folder) if self._books.size(found.name) != found.bytes]
        assert not unknown, f"not in the books: {unknown}"
        assert self._books.bytes == sum(line.bytes for line in self._books.lines())
        assert self._in_hand >= 0

    # -- room -----------------------------------------------------------------------------------------------------------------

    @property
    def _taken(self) -> int:
        return self._books.bytes + self._older_versions + self._newer_versions + self._in_hand

    @property
    def _free(self) -> int:
        system = os.statvfs(self._folder)
        return system.f_bavail * system.f_frsize

    def _shortage(self, size: int) -> int:
        """How many bytes must go before `size` may come."""
        return max(self._taken + size - self.capacity, self._free_floor + size - self._free)

    def _sweep(self, size: int, at_least: int = 0) -> None:
        """Makes room for `size` and more, unless another process is just doing so."""
        with self._alone() as alone:
            if alone:
                self._look()
                shortage = max(self._shortage(size), at_least)
                removable = self._books.bytes + self._older_versions
                if 0 < shortage <= removable:  # what would not be enough is better kept
                    self._evict(shortage + removable // _SLACK)
                    self._rewrite_log()

    def _evict(self, wanted: int) -> None:
        """Removes objects until `wanted` bytes are free: older versions first, then what was used longest ago."""
        old = self._remove_old_versions()
        self.evicted += old.objects
        freed = old.bytes
        while freed < wanted and (oldest := self._books.oldest()) is not None:
            name, size = oldest
            self.evicted += remove_object(self._folder, name)
            self._books.remove(name)
            freed += size

    def _remove_old_versions(self) -> Amount:
        objects = removed = 0
        for number, folder in versions(self._root).items():
            if number < FORMAT_VERSION:
                collect(folder / TEMPORARY)
                gone = remove_version(folder)
                objects, removed = objects + gone.objects, removed + gone.bytes
        self._older_versions = 0
        return Amount(objects, removed)

    @contextmanager
    def _alone(self, *, wait: bool = False) -> Iterator[bool]:
        """Holds off the other processes that want to sweep; False where one of them was first and `wait` is."""
        self._prepare()
        fd = os.open(self._sweep_lock, os.O_RDWR | os.O_NOFOLLOW)
        try:
            yield _locked(fd, wait)
        finally:
            os.close(fd)

    def _prepare(self) -> None:
        """Makes what a sweep needs. When the disk is full, it is too late for that."""
        if not self._sweep_lock.exists():
            make_folder(self._folder)
            self._sweep_lock.touch(mode=0o600)
            self._sweep_lock.chmod(0o600)  # whatever the umask took away

    # -- books ----------------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Brings the books up to date with what the log says."""
        fresh, lines = self._log.read()
        if fresh:
            self._list(line.name for line in lines)
        else:
            for line in lines:
                self._books.apply(line)

    def _look(self) -> None:
        """Brings the books up to date with what there is."""
        self._follow()
        self._list(self._books.names())

    def _list(self, order: Iterable[str]) -> None:
        """Writes the books anew from a listing of the folders. order: names as they were used."""
        try:
            collect(self._folder / TEMPORARY)
            self._books.correct({found.name: found.bytes for found in stored_objects(self._folder)}, order)
            others = {number: folder for number, folder in versions(self._root).items() if number != FORMAT_VERSION}
            self._older_versions = sum(amount(folder).bytes for number, folder in others.items() if number < FORMAT_VERSION)
            self._newer_versions = sum(amount(folder).bytes for number, folder in others.items() if number > FORMAT_VERSION)
        except OSError:
            self._log.forget()  # so that the next look at it begins with a listing again
            raise

    def _note(self, lines: Sequence[Line]) -> None:
        """Writes down what this process did. Where the log cannot be written, others will know by listing the folders."""
        for line in lines:
            self._books.apply(line)
        with suppress(OSError):
            if self._log.append(lines) > self._large_log:
                self._compact_log()

    def _compact_log(self) -> None:
        with self._alone() as alone:
            if alone:
                self._follow()
                self._rewrite_log()

    def _rewrite_log(self) -> None:
        """Leaves one line per object in the log. Others who see a new log list the folders."""
        with suppress(OSError):
            self._large_log = max(_SMALL_LOG, 2 * self._log.replace(self._books.lines()))


def _locked(fd: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
