"""Copies of KV blocks between arenas and buffers, by all threads of a pool."""

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import BlocksStruct, Pool, address
from tiercel.ops.cpu.step import KV_FORMATS, ROTATED
from tiercel.types import KVFormat, KVLayout

Bytes = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]

# Numbers of `tiercel_kv_format`; float32 exists outside of arenas only.
_NUMBERS: dict[KVFormat, int] = {**KV_FORMATS, "float32": 3}


def copy_blocks(
    pool: Pool,
    source: Bytes,
    source_layout: KVLayout,
    destination: Bytes,
    destination_layout: KVLayout,
    pairs: Int32,
    layers: tuple[int, int] | None = None,
) -> None:
    """Copies blocks as they are, or from one format into another: encoded as if their rows had been written there.

    source, destination: uint8, whole blocks of their layouts, whose shapes are equal but for the format; they may be the same
    memory. pairs: int32 [n, 2] (block of source, block of destination), each destination once; all sources are read before
    anything is written. layers: places (first, last + 1) within the layouts; None = all.

    Raises ValueError for shapes that differ, arrays that are not contiguous and heads that cannot be converted, IndexError for
    blocks or layers that do not exist.
    """
    first, last = layers if layers is not None else (0, len(source_layout.layers))
    _check_shapes(source_layout, destination_layout)
    if not 0 <= first <= last <= len(source_layout.layers):
        raise IndexError(f"there are no layers {first} to {last}, of {len(source_layout.layers)}")
    source_ids, destination_ids = (np.ascontiguousarray(ids, np.int32) for ids in pairs.T)
    _check_blocks(source, source_layout, source_ids)
    _check_blocks(destination, destination_layout, destination_ids)
    per_layer = 2 * source_layout.num_kv_heads
    segments = first * per_layer, last * per_layer
    read = _blocks(source, source_layout, source_ids)
    written = _blocks(destination, destination_layout, destination_ids)
    if np.may_share_memory(source, destination) and np.isin(source_ids, destination_ids).any():
        memory = np.empty(len(pairs) * source_layout.block_bytes, np.uint8)
        aside = _blocks(memory, source_layout)
        _copy(pool, read, aside, len(pairs), segments)
        read = aside
    _copy(pool, read, written, len(pairs), segments)


def _copy(pool: Pool, source: BlocksStruct, destination: BlocksStruct, count: int, segments: tuple[int, int]) -> None:
    if pool.library.tiercel_copy_blocks(pool.handle, source, destination, count, *segments):
        raise ValueError(f"heads of {source.head_dim} channels cannot be converted: 32, 64, ... 256 can")


def _blocks(memory: Bytes, layout: KVLayout, ids: Int32 | None = None) -> BlocksStruct:
    """Both arrays must outlive the struct."""
    return BlocksStruct(
        address(memory),
        layout.block_bytes,
        None if ids is None else address(ids),
        layout.block_tokens,
        layout.head_dim,
        _NUMBERS[layout.format],
        layout.format in ROTATED,
    )


def _check_shapes(source: KVLayout, destination: KVLayout) -> None:
    shapes = {
        (len(layout.layers), layout.num_kv_heads, layout.head_dim, layout.block_tokens) for layout in (source, destination)
    }
    if len(shapes) > 1:
        raise ValueError(f"blocks of different shapes: {source} and {destination}")


def _check_blocks(memory: Bytes, layout: KVLayout, ids: Int32) -> None:
    if memory.dtype != np.uint8 or not memory.flags.c_contiguous:
        raise ValueError("blocks lie in contiguous bytes")
    if len(ids) and not 0 <= ids.min() <= ids.max() < memory.nbytes // layout.block_bytes:
        raise IndexError(f"blocks {ids.min()} to {ids.max()} of {memory.nbytes // layout.block_bytes}")
