"""Moving bytes between buffers and files, however few of them the system takes at a time."""

import os
from collections.abc import Sequence

_MOST_BUFFERS = os.sysconf("SC_IOV_MAX")


def read_into(fd: int, offset: int, buffers: Sequence[memoryview]) -> int:
    """Fills `buffers` in order from `offset` of a file on, as far as it goes. Returns the number of bytes. Raises OSError."""
    filled, rest = 0, _bytewise(buffers)
    while rest:
        count = os.preadv(fd, rest[:_MOST_BUFFERS], offset + filled)
        if count == 0:
            break
        filled, rest = filled + count, _without(rest, count)
    return filled


def write_all(fd: int, buffers: Sequence[memoryview]) -> None:
    """Writes all of `buffers` in order. Raises OSError."""
    rest = _bytewise(buffers)
    while rest:
        rest = _without(rest, os.writev(fd, rest[:_MOST_BUFFERS]))


def _bytewise(buffers: Sequence[memoryview]) -> list[memoryview]:
    return [buffer.cast("B") for buffer in buffers if buffer.nbytes]


def _without(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `views` without their first `count` bytes."""
    done = 0
    while done < len(views) and count >= len(views[done]):
        count -= len(views[done])
        done += 1
    return [views[done][count:], *views[done + 1 :]] if count else views[done:]
