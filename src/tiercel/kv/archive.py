"""Reading a tar file whose writer is not trusted.

The header blocks are parsed by `tarfile`. Its reader is not used: it takes extended headers of any length into memory and makes
up the holes of sparse files.
"""

import io
import tarfile

FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)

_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_PIECE = 1 << 20  # bytes that are passed over at a time


class Broken(Exception):
    """The file ends, or stops being a tar file, where it should go on."""


class Members:
    """The members of an archive, one after the other. No more is held in memory than what `read` returns.

    Long names and other extensions are members of their own here, of a type that is not in FILE_TYPES.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._data = 0  # bytes of the current member that were not read yet
        self._padding = 0  # bytes behind them, up to a whole block

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None at the end of the archive. Raises Broken."""
        self._skip(self._data + self._padding)
        block = bytes(self._read(tarfile.BLOCKSIZE))
        if not any(block):
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Broken(f"it stops being a tar file: {error}") from error
        if member.size < 0:
            raise Broken("it stops being a tar file: a member of negative size")
        self._data = 0 if member.type in _WITHOUT_DATA else member.size
        self._padding = -self._data % tarfile.BLOCKSIZE
        return member

    def read(self) -> memoryview:
        """All bytes of the current member; its `size` should be looked at before. Raises Broken."""
        size, self._data = self._data, 0
        return self._read(size)

    def _read(self, size: int) -> memoryview:
        data = memoryview(bytearray(size))
        if self._file.readinto(data) != size:
            raise Broken("it ends before its end")
        return data

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._read(min(size, _PIECE)))
