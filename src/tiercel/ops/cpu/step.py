"""A step's arrays as the library reads them."""

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import GroupStruct, StepStruct, address
from tiercel.ops.cpu.open_blocks import OpenBlocks, open_fields
from tiercel.types import AttentionBatch, InvalidInput, KVFormat, KVLayout

Int32 = npt.NDArray[np.int32]

# Numbers of `tiercel_kv_format`.
KV_FORMATS: dict[KVFormat, int] = {"bfloat16": 0, "int8": 1, "int4": 2, "int4-plain": 2}
ROTATED: frozenset[KVFormat] = frozenset({"int8", "int4"})
_BLOCK_WISE: frozenset[KVFormat] = frozenset({"int4", "int4-plain"})


@dataclass(frozen=True, eq=False)
class BoundKV:
    """A group's arena. base: address of its first byte; open: raw copies of unfinished blocks, where the format wants them."""

    arena: npt.NDArray[np.uint8]
    layout: KVLayout
    base: int
    open: OpenBlocks | None = None


def bind_kv(arena: npt.NDArray[np.uint8], layout: KVLayout) -> BoundKV:
    """Raises InvalidInput for a KV format or head size that the kernels cannot read."""
    if layout.format not in KV_FORMATS:
        raise InvalidInput("kv_dtype", f"the cpu back end keeps KV in {', '.join(KV_FORMATS)}, not in {layout.format}")
    if layout.head_dim % 32 or layout.head_dim > 256:
        raise InvalidInput(
            "backend", f"the cpu back end needs heads of 32, 64, ... 256 channels, not {layout.head_dim}: choose reference"
        )
    return BoundKV(arena, layout, address(arena), OpenBlocks(layout) if layout.format in _BLOCK_WISE else None)


def group_struct(kv: BoundKV, batch: AttentionBatch, mask: npt.NDArray[np.bool_] | None = None) -> GroupStruct:
    """The arrays of `batch` must outlive the struct. mask: bool [rows, positions], True = hidden."""
    layout = kv.layout
    struct = GroupStruct(
        kv.base,
        layout.block_bytes,
        layout.block_tokens,
        layout.num_kv_heads,
        layout.head_dim,
        len(batch.lengths),
        address(batch.query_start),
        address(batch.q_positions),
        address(batch.block_tables),
        address(batch.lengths),
        address(batch.slot_mapping),
        batch.block_tables.shape[1],
    )
    struct.kv_format, struct.rotated = KV_FORMATS[layout.format], layout.format in ROTATED
    if kv.open is not None:
        for name, value in open_fields(kv.open, batch).items():
            setattr(struct, name, value)
    if mask is not None:
        struct.mask, struct.mask_columns = address(mask), mask.shape[1]
    return struct


def step_struct(
    token_ids: Int32,
    positions: Int32,
    sample_rows: Int32,
    rows: int,
    groups: list[GroupStruct],
    seconds: npt.NDArray[np.float64] | None,
) -> StepStruct:
    """The arrays must outlive the struct. seconds: [instructions], to which the time of each is added."""
    array = (GroupStruct * len(groups))(*groups)
    return StepStruct(
        rows,
        len(sample_rows),
        len(groups),
        0,
        address(token_ids),
        address(positions),
        address(sample_rows),
        ctypes.cast(array, ctypes.POINTER(GroupStruct)),
        address(seconds) if seconds is not None else None,
    )


def by_position(batch: AttentionBatch, layout: KVLayout) -> AttentionBatch:
    """The batch with tables that are contiguous from position 0. Blocks must start at multiples of their size.

    Raises InvalidInput where one does not.
    """
    if batch.block_positions is None:
        return batch
    present = batch.block_tables >= 0
    entries, rest = np.divmod(batch.block_positions, layout.block_tokens)
    if (rest[present] != 0).any():
        raise InvalidInput("block_positions", f"the cpu back end needs multiples of {layout.block_tokens}")
    width = int(-(-batch.lengths.max(initial=1) // layout.block_tokens))
    table = np.full((len(batch.lengths), width), -1, np.int32)
    request, entry = np.nonzero(present & (entries < width))
    table[request, entries[request, entry]] = batch.block_tables[request, entry]
    return AttentionBatch(batch.query_start, batch.q_positions, table, batch.lengths, batch.slot_mapping)
