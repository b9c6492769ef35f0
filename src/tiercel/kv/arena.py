"""The bytes of the device blocks: page-aligned anonymous memory, cut by group. Pages cost nothing until they are written."""

import mmap
from collections.abc import Sequence

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

    def block(self, group: int, slot: int) -> memoryview:
        """The bytes of one block, to read and to write."""
        size = self._block_bytes[group]
        return self.groups[group][slot * size : (slot + 1) * size].data

    @property
    def num_bytes(self) -> int:
        return len(self._mapping)


def _page_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
