"""The bytes of the device blocks: page-aligned anonymous memory, cut by group. Pages cost nothing until they are written."""

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from tiercel.types import KVGroup


class Arena:
    """One mapping for all groups; `groups[i]` are the uint8 [num_blocks * block_bytes] of group i, starting on a page."""

    def __init__(self, groups: Sequence[KVGroup], num_blocks: int) -> None:
        sizes = [num_blocks * group.layout.block_bytes for group in groups]
        starts = [0]
        for size in sizes:
            starts.append(_page_up(starts[-1] + size))
        self._block_bytes = [group.layout.block_bytes for group in groups]
        self._mapping = mmap.mmap(-1, max(starts[-1], mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        everything = np.frombuffer(self._mapping, np.uint8)
        self.groups: tuple[npt.NDArray[np.uint8], ...] = tuple(
            everything[start : start + size] for start, size in zip(starts, sizes, strict=False)
        )

    def populate(self, num_bytes: int) -> threading.Thread:
        """Has the system find memory for the first blocks, about so many bytes, in the background; contents stay as they are.

        A page's first use costs far more than its later ones, most of all in virtual machines: a prompt or a load that fills
        many new pages would be held up by it. Where the system has no such call (Linux before 5.14), nothing happens.
        """
        num_blocks = num_bytes // sum(self._block_bytes)
        areas = [area[: num_blocks * size] for area, size in zip(self.groups, self._block_bytes, strict=True)]
        thread = threading.Thread(target=_populate_behind_all_else, args=(areas,), name="tiercel-arena", daemon=True)
        thread.start()
        return thread

    def block(self, group: int, slot: int) -> memoryview:
        """The bytes of one block, to read and to write."""
        size = self._block_bytes[group]
        return self.groups[group][slot * size : (slot + 1) * size].data

    @property
    def num_bytes(self) -> int:
        return len(self._mapping)


_MADV_POPULATE_WRITE = 23  # Linux 5.14; the mmap module does not name it
_PIECE = 8 << 20  # bytes of one call


def _populate_behind_all_else(areas: Sequence[npt.NDArray[np.uint8]]) -> None:
    with suppress(OSError):  # of this thread, on Linux: whoever computes meanwhile goes first
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    _populate(areas)


def _populate(areas: Sequence[npt.NDArray[np.uint8]]) -> None:
    # By ctypes: unlike mmap.madvise it lets other Python threads run meanwhile.
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return
    for area in areas:
        for start in range(0, len(area), _PIECE):
            piece = area[start : start + _PIECE]
            size = _page_up(len(piece))
            if madvise(ctypes.c_void_p(piece.ctypes.data), ctypes.c_size_t(size), _MADV_POPULATE_WRITE) != 0:
                return


def _page_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
