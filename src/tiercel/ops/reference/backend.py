"""The reference back end: every op in torch, float32, eagerly. It defines what the other back ends must compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tiercel.ops.base import Forward, Handle, Ops, StepHandles
from tiercel.ops.dequantize import dequantize
from tiercel.ops.reference import elementwise
from tiercel.ops.reference.arena import KVArena, Runs
from tiercel.ops.reference.attention import attention
from tiercel.ops.reference.linear import embedding, linear, pack
from tiercel.ops.reference.plan import Plan, Reach, make_plan
from tiercel.ops.reference.scratch import Scratch
from tiercel.ops.rope import rotation_tables
from tiercel.ops.sampling import sample
from tiercel.types import AttentionBatch, KVLayout, RopeConfig, SamplingBatch, StepInput, StepOutput, Weight

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RotationTable:
    """cos, sin: [max_position, head_dim / 2]."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


class Batch:
    """An attention batch, with whatever the layers of its group share in a step."""

    def __init__(self, arrays: AttentionBatch) -> None:
        self._arrays = arrays
        self._plans: dict[tuple[KVLayout, int, Reach], Plan] = {}
        self._slots: dict[KVLayout, Tensor] = {}

    def plan(self, layout: KVLayout, heads: int, reach: Reach) -> Plan:
        key = (layout, heads, reach)
        if key not in self._plans:
            self._plans[key] = make_plan(self._arrays, layout, heads, reach)
        return self._plans[key]

    def slots(self, layout: KVLayout) -> Tensor:
        """[rows * kv_heads], the one-token runs where the rows' keys go in the group's first layer."""
        if layout not in self._slots:
            blocks, offsets = np.divmod(self._arrays.slot_mapping, layout.block_tokens)
            one = Runs(layout, 1)
            slots = one.first(blocks, offsets)[:, None] + one.of_heads()[0]
            self._slots[layout] = torch.from_numpy(slots.reshape(-1))
        return self._slots[layout]


class ReferenceOps(Ops):
    """Handles are torch tensors, or one of the classes above."""

    def __init__(self, threads: int | None = None) -> None:
        """threads: for the whole process, since torch has one pool. None leaves it alone."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._scratch = Scratch()

    @property
    def numerics(self) -> str:
        return f"reference-f32-{torch.backends.cpu.get_cpu_capability().lower()}"

    @property
    def balances(self) -> bool:
        return False

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        return Handle(pack([dequantize(weight) for weight in weights]))

    def pack_rope(self, rope: RopeConfig, max_position: int) -> Handle:
        cos, sin = rotation_tables(rope, max_position)
        return Handle(RotationTable(torch.from_numpy(cos), torch.from_numpy(sin), rope.interleaved))

    def compile(self, model: Forward, layouts: Sequence[KVLayout]) -> Forward:
        return model

    def save(self, forward: Forward, path: Path) -> bool:
        return False

    def restore(self, path: Path, layouts: Sequence[KVLayout]) -> None:
        return None

    def bind_kv(self, arena: npt.NDArray[np.uint8], layout: KVLayout) -> Handle:
        return Handle(KVArena(arena, layout))

    def begin(self, step: StepInput) -> StepHandles:
        return StepHandles(
            token_ids=_index(step.token_ids),
            positions=_index(step.positions),
            batches=tuple(Handle(Batch(group)) for group in step.groups),
            sample_rows=_index(step.sampling.rows),
        )

    def copy_blocks(self, kv: Handle, pairs: npt.NDArray[np.int32]) -> None:
        _as(KVArena, kv).copy_blocks(pairs)

    def embedding(self, token_ids: Handle, table: Handle) -> Handle:
        return Handle(embedding(_tensor(token_ids), _tensor(table)))

    def add(self, a: Handle, b: Handle) -> Handle:
        return Handle(_tensor(a) + _tensor(b))

    def rms_norm(self, x: Handle, weight: Handle, eps: float) -> Handle:
        return Handle(elementwise.rms_norm(_tensor(x), _tensor(weight), eps))

    def linear(self, x: Handle, weight: Handle, bias: Handle | None = None) -> Handle:
        return Handle(linear(_tensor(x), _tensor(weight), None if bias is None else _tensor(bias)))

    def split(self, x: Handle, sizes: Sequence[int]) -> tuple[Handle, ...]:
        return tuple(Handle(part) for part in torch.split(_tensor(x), list(sizes), dim=1))

    def rope(self, x: Handle, positions: Handle, table: Handle) -> Handle:
        at, angles = _tensor(positions), _as(RotationTable, table)
        cos, sin = angles.cos.index_select(0, at), angles.sin.index_select(0, at)
        return Handle(elementwise.rotate(_tensor(x), cos, sin, angles.interleaved))

    def silu_mul(self, gate: Handle, up: Handle) -> Handle:
        return Handle(elementwise.silu_mul(_tensor(gate), _tensor(up)))

    def kv_write(self, k: Handle, v: Handle, kv: Handle, layer: int, batch: Handle) -> None:
        arena = _as(KVArena, kv)
        slots = _as(Batch, batch).slots(arena.layout)
        arena.write("k", _tensor(k), layer, slots)
        arena.write("v", _tensor(v), layer, slots)

    def attention(
        self,
        q: Handle,
        kv: Handle,
        layer: int,
        batch: Handle,
        *,
        scale: float,
        window: int | None = None,
        sink_tokens: int = 0,
        mask: Handle | None = None,
        return_lse: bool = False,
    ) -> Any:  # a handle, or with return_lse a pair of them: the overloads stand in Ops
        arena, queries = _as(KVArena, kv), _tensor(q)
        heads = queries.shape[1] // arena.layout.head_dim
        plan = _as(Batch, batch).plan(arena.layout, heads, Reach(window, sink_tokens))
        hidden = None if mask is None else _tensor(mask)
        result, lse = attention(queries, arena, layer, plan, self._scratch, scale=scale, mask=hidden, return_lse=return_lse)
        return (Handle(result), Handle(lse)) if return_lse else Handle(result)

    def select_rows(self, x: Handle, rows: Handle) -> Handle:
        return Handle(_tensor(x).index_select(0, _tensor(rows)))

    def sample(self, logits: Handle, sampling: SamplingBatch) -> StepOutput:
        return sample(_tensor(logits).numpy(), sampling)


def _index(numbers: npt.NDArray[np.int32]) -> Handle:
    return Handle(torch.from_numpy(numbers.astype(np.int64)))


def _tensor(handle: Handle) -> Tensor:
    return _as(Tensor, handle)


def _as(kind: type[T], handle: Handle) -> T:
    """What a handle holds. Raises TypeError for a handle of another kind or back end."""
    if not isinstance(handle, kind):
        raise TypeError(f"expected a {kind.__name__} of the reference back end, got a {type(handle).__name__}")
    return handle
