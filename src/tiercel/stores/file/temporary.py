"""Files in the making: written under a name of their own, then renamed, so that they appear whole or not at all."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tiercel.stores.file.folders import make_folder
from tiercel.stores.file.transfer import write_all

_NAME = re.compile(r"[0-9a-f]{32}\.tmp")
_ATTEMPTS = 10  # others may remove a folder as empty just when something is to be put into it; hardly so often in a row


@contextmanager
def new_file(folder: Path, buffers: Sequence[memoryview]) -> Iterator[Path]:
    """A file in `folder` that holds `buffers`, to be published inside the `with`; removed at its end if it was not.

    It is locked as long as its writer lives, which tells `collect` that it is no litter. Raises OSError.
    """
    fd, path = _create(folder)
    try:
        write_all(fd, buffers)
        os.close(os.dup(fd))  # network file systems tell on closing, and not before, that there was no room
        yield path
    finally:
        _discard(fd, path)


def publish(file: Path, target: Path) -> None:
    """Gives a new file its name, in place of what may be there. Raises OSError."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            os.rename(file, target)
            return
        with suppress(FileNotFoundError):
            make_folder(target.parent)
    os.rename(file, target)


def collect(folder: Path) -> None:
    """Removes what dead writers left behind, as far as that can be done."""
    for name in _names(folder):
        with suppress(OSError):  # mostly: its writer lives
            fd = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(fd)


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError:
        return []


def _create(folder: Path) -> tuple[int, Path]:
    """A new file, open and locked."""
    for _ in range(_ATTEMPTS):
        make_folder(folder)
        path = folder / f"{secrets.token_hex(16)}.tmp"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(fd, 0o600)  # whatever the umask took away
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            _discard(fd, path)
            raise
        if os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)  # it was collected before it was locked
    raise FileNotFoundError(f"files in {folder} vanish as soon as they are made")


def _discard(fd: int, path: Path) -> None:
    with suppress(OSError):  # mostly: it was published
        path.unlink()
    os.close(fd)
