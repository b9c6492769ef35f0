"""Files and the system's page cache: read them raw, drop them from memory, see how much of them is there."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np


def read_raw(files: Sequence[Path]) -> float:
    """Seconds to read all files whole, one after the other, into one buffer with room for all of them, which is in memory
    already. Raises OSError."""
    sizes = [file.stat().st_size for file in files]
    rest = memoryview(bytearray(b"\1") * sum(sizes))
    start = perf_counter()
    for file, size in zip(files, sizes, strict=True):
        with file.open("rb", buffering=0) as source:
            if source.readinto(rest[:size]) != size:
                raise OSError(f"{file} was not read in one piece")
        rest = rest[size:]
    return perf_counter() - start


def drop(files: Sequence[Path]) -> None:
    """Writes files out and asks the system to forget what it holds of them in memory. Raises OSError."""
    for file in files:
        with file.open("rb", buffering=0) as source:
            os.fsync(source.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(files: Sequence[Path]) -> float:
    """The part of the files' bytes that the page cache holds, from 0 to 1. Raises OSError."""
    pages = np.concatenate([_resident_pages(file) for file in files])
    return float(pages.mean())


def _resident_pages(file: Path) -> np.ndarray:
    """For each page of a file, whether it is in memory, as mincore(2) tells."""
    with file.open("rb", buffering=0) as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        view = np.frombuffer(mapping, np.uint8)
        pages = np.empty(-(-len(view) // mmap.PAGESIZE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)), ctypes.c_void_p(pages.ctypes.data))
        del view  # a mapping that is looked into cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    return pages & 1
