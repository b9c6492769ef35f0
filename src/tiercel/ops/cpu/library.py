"""The native library through ctypes: its structs (api.h) as numpy dtypes and ctypes structures, its functions, its threads."""

import ctypes
import importlib.machinery
from ctypes import POINTER, c_double, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiercel.config import native_library
from tiercel.types import InvalidInput, ModelError

ABI = 2
LEVELS = ("avx2", "avx512", "amx")  # by number

MATRIX = np.dtype(
    [("data", np.uint64), ("format", np.int32), ("rows", np.int32), ("columns", np.int32), ("reserved", np.int32)]
)
CONSTANT = np.dtype([("first_matrix", np.int32), ("num_matrices", np.int32), ("interleaved", np.int32), ("reserved", np.int32)])
INSTRUCTION = np.dtype(
    [
        ("op", np.int32),
        ("samples", np.int32),
        ("barrier", np.int32),
        ("inputs", np.int32, (2, 3)),
        ("out", np.int32, 3),
        ("in_bf16", np.int32),
        ("in_q8", np.int32),
        ("in_i8", np.int32),
        ("out_bf16", np.int32),
        ("out_q8", np.int32),
        ("out_i8", np.int32),
        ("constant", np.int32, 2),
        ("group", np.int32),
        ("layer", np.int32),
        ("heads", np.int32),
        ("window", np.int32),
        ("sink_tokens", np.int32),
        ("real", np.float32),
    ]
)
BUFFER = np.dtype([("data", np.uint64), ("row_bytes", np.int64)])
SAMPLING = np.dtype(
    [
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("top_k", np.int32),
        ("seed", np.uint64),
        ("sample_index", np.int32),
        ("output_position", np.int32),
        ("mask", np.uint64),
    ]
)


class ProgramStruct(ctypes.Structure):
    """tiercel_program."""

    _fields_ = (
        ("instructions", c_void_p),
        ("constants", c_void_p),
        ("matrices", c_void_p),
        ("buffers", c_void_p),
        ("num_instructions", c_int32),
        ("num_constants", c_int32),
        ("num_matrices", c_int32),
        ("num_buffers", c_int32),
    )


class GroupStruct(ctypes.Structure):
    """tiercel_group."""

    _fields_ = (
        ("arena", c_void_p),
        ("block_bytes", c_int64),
        ("block_tokens", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("requests", c_int32),
        ("query_start", c_void_p),
        ("q_positions", c_void_p),
        ("block_tables", c_void_p),
        ("lengths", c_void_p),
        ("slot_mapping", c_void_p),
        ("max_blocks", c_int32),
        ("reserved", c_int32),
        ("mask", c_void_p),
        ("mask_columns", c_int64),
        ("kv_format", c_int32),
        ("rotated", c_int32),
        ("open", c_void_p),
        ("open_block_bytes", c_int64),
        ("open_blocks", c_void_p),
        ("open_scratch", c_void_p),
    )


class StepStruct(ctypes.Structure):
    """tiercel_step."""

    _fields_ = (
        ("rows", c_int32),
        ("samples", c_int32),
        ("num_groups", c_int32),
        ("reserved", c_int32),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("sample_rows", c_void_p),
        ("groups", POINTER(GroupStruct)),
        ("seconds", c_void_p),
    )


class BlocksStruct(ctypes.Structure):
    """tiercel_blocks."""

    _fields_ = (
        ("data", c_void_p),
        ("block_bytes", c_int64),
        ("ids", c_void_p),
        ("block_tokens", c_int32),
        ("head_dim", c_int32),
        ("kv_format", c_int32),
        ("rotated", c_int32),
    )


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "tiercel_abi": (c_int32, ()),
    "tiercel_best_level": (c_int32, ()),
    "tiercel_pool_create": (c_void_p, (c_int32, c_int32)),
    "tiercel_pool_destroy": (None, (c_void_p,)),
    "tiercel_run": (c_int32, (c_void_p, POINTER(ProgramStruct), POINTER(StepStruct), c_int32, c_int32)),
    "tiercel_packed_bytes": (c_int64, (c_int32, c_int32, c_int32)),
    "tiercel_pack": (c_int32, (c_void_p, c_int32, c_void_p, c_int32, c_int32, c_int32, c_void_p)),
    "tiercel_unpack": (None, (c_void_p, c_void_p, c_int32, c_void_p)),
    "tiercel_sample": (None, (c_void_p, c_void_p, c_int64, c_int32, c_int32, c_void_p, c_void_p)),
    "tiercel_copy_blocks": (c_int32, (c_void_p, POINTER(BlocksStruct), POINTER(BlocksStruct), c_int64, c_int32, c_int32)),
    "tiercel_probe": (c_double, (c_void_p, c_int32, c_void_p, c_int64)),
}


def library_path() -> Path:
    """The library of this installation, or the one that was named instead. Raises ModelError saying why there is none."""
    named = native_library()
    if named is not None:
        return named
    folder = Path(__file__).parent
    names = (f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    note = folder / "native_missing.txt"  # left by setup.py
    why = note.read_text().strip() if note.is_file() else "tiercel was not installed by its own build"
    raise ModelError(
        f"the native kernels were not built ({why}); they take a C++20 compiler (g++ 11, clang 14 or newer) when tiercel is "
        "installed, and the reference back end is several times slower"
    )


@cache
def load_library() -> ctypes.CDLL:
    """Raises ModelError saying why there is no library that works."""
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ModelError(f"the native back end cannot be loaded: {error}") from error
    if library.tiercel_abi() != ABI:
        raise ModelError(f"{path} belongs to another version of tiercel: install tiercel again")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def best_level() -> str:
    """The highest instruction set of `LEVELS` that this machine has. Raises ModelError if there is none, or no library."""
    number = load_library().tiercel_best_level()
    if number < 0:
        raise ModelError("the native back end needs a processor with AVX2 and FMA; the reference back end works on this one")
    return LEVELS[number]


class Pool:
    """Threads that compute together; the calling thread is one of them."""

    def __init__(self, threads: int, level: str = "auto") -> None:
        """level: an instruction set of `LEVELS`, or auto. Raises InvalidInput if this machine lacks it, ModelError."""
        self.library = load_library()
        best = best_level()
        self.level = best if level == "auto" else level
        if LEVELS.index(self.level) > LEVELS.index(best):
            raise InvalidInput("isa", f"this machine has no {level}; the best it has is {best}")
        self.threads = threads
        self.handle = self.library.tiercel_pool_create(threads, LEVELS.index(self.level))
        if not self.handle:
            raise ModelError(f"cannot start {threads} threads")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.tiercel_pool_destroy(self.handle)


def address(array: npt.NDArray[np.generic]) -> int:
    """Where an array's first byte lies."""
    data: int = array.ctypes.data
    return data


def aligned(num_bytes: int, alignment: int = 64) -> npt.NDArray[np.uint8]:
    """Uninitialised bytes whose first one is aligned."""
    raw = np.empty(num_bytes + alignment, np.uint8)
    start = -address(raw) % alignment
    return raw[start : start + num_bytes]
