"""What the processes that share a store tell each other: an append-only text file with a line for every put and every use.

It is a hint. The truth about which objects there are is the listing of the folders; only the order of use is known from here
alone, and losing it costs no more than a poor choice of what to evict. Removals are not told: the folders are listed before
anything is evicted. Lines carry a checksum: what is torn or foreign is skipped. The first line is drawn at random when the file
is written anew, and tells readers that it was.
"""

import os
import re
import secrets
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tiercel.stores.file.temporary import new_file, publish

PUT, USED = "+", "="

_LINE = re.compile(rb"([0-9a-f]{8}) ([+=]) ([0-9]{1,18}) ([!-~]{1,200})")
_HEADER_BYTES = 17
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
_ATTEMPTS = 10  # the log may be replaced while a line is added; hardly so often in a row


class Line(NamedTuple):
    """action: PUT or USED; name: the object; bytes: its size, for PUT."""

    action: str
    name: str
    bytes: int = 0


class News(NamedTuple):
    """lines: what was added since the last look; fresh: the log is another than then, and `lines` is all of it."""

    fresh: bool
    lines: list[Line]


class UsageLog:
    """One process's view of the log: how far it has read. Not thread-safe. tmp: the folder of files in the making."""

    def __init__(self, path: Path, tmp: Path) -> None:
        self._path = path
        self._tmp = tmp
        self._header: bytes | None = None  # first line when last read; None = not read yet
        self._offset = 0  # bytes read

    def read(self) -> News:
        """What is new. A log that is missing or cannot be read is a fresh one each time."""
        try:
            fd = os.open(self._path, _READ)
            try:
                return self._read(fd)
            finally:
                os.close(fd)
        except OSError:
            self.forget()
            return News(True, [])

    def forget(self) -> None:
        """As if nothing had been read yet."""
        self._header, self._offset = None, 0

    def append(self, lines: Iterable[Line]) -> int:
        """Adds lines in one write. Returns the size of the log in bytes. Raises OSError.

        A log that was replaced meanwhile gets the lines once more: with what `replace` does, none is lost.
        """
        text = b"\n" + _encoded(lines)  # a line that somebody left torn ends here
        for _ in range(_ATTEMPTS):
            fd = self._open_to_append()
            try:
                os.write(fd, text)
                written = os.fstat(fd)
                if self._is_at_path(written):
                    return written.st_size
            finally:
                os.close(fd)
        raise FileNotFoundError(f"{self._path} vanishes as soon as it is made")

    def replace(self, lines: Iterable[Line]) -> int:
        """Writes the log anew. Only one process at a time may. Returns its size in bytes. Raises OSError.

        What others added to the old log until it was replaced, unseen by this process, is carried over and will be read.
        """
        header, text = _new_header(), _encoded(lines)
        try:
            old = os.open(self._path, _READ)
        except OSError:
            old = None
        try:
            self._write(header + text)
            late = [] if old is None else self._read(old).lines
        finally:
            if old is not None:
                os.close(old)
        self._header, self._offset = header, len(header + text)
        return self.append(late)

    def _write(self, content: bytes) -> None:
        with new_file(self._tmp, [memoryview(content)]) as file:
            publish(file, self._path)

    def _open_to_append(self) -> int:
        try:
            return os.open(self._path, _APPEND)
        except FileNotFoundError:
            self._write(_new_header())
            return os.open(self._path, _APPEND)

    def _is_at_path(self, info: os.stat_result) -> bool:
        try:
            return os.path.samestat(info, os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _read(self, fd: int) -> News:
        header = os.pread(fd, _HEADER_BYTES, 0)
        size = os.fstat(fd).st_size
        fresh = header != self._header or size < self._offset
        start = 0 if fresh else self._offset
        data = os.pread(fd, size - start, start)
        whole = data[: data.rfind(b"\n") + 1]  # of the last line only the beginning may be there yet: it is left for later
        self._header, self._offset = header, start + len(whole)
        return News(fresh, [line for line in map(_decoded, whole.splitlines()) if line is not None])


def _new_header() -> bytes:
    return secrets.token_hex(_HEADER_BYTES // 2).encode() + b"\n"


def _encoded(lines: Iterable[Line]) -> bytes:
    texts = (f"{line.action} {line.bytes} {line.name}".encode() for line in lines)
    return b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts)


def _decoded(raw: bytes) -> Line | None:
    match = _LINE.fullmatch(raw)
    if match is None or int(match[1], 16) != zlib.crc32(raw[9:]):
        return None
    return Line(match[2].decode(), match[4].decode(), int(match[3]))
