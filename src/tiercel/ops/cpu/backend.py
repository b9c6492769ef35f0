"""The native back end. A model runs as a program; single ops run at once, as programs of one call."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tiercel.ops.base import Forward, Handle, Ops, StepHandles
from tiercel.ops.cpu import saved
from tiercel.ops.cpu.blocks import copy_blocks
from tiercel.ops.cpu.library import Pool
from tiercel.ops.cpu.lowering import Lowering
from tiercel.ops.cpu.packing import Packed, PackedDtype, pack, plain
from tiercel.ops.cpu.program import LayerHook, NativeProgram
from tiercel.ops.cpu.sampling import sample
from tiercel.ops.cpu.step import BoundKV, bind_kv, by_position, group_struct, step_struct
from tiercel.ops.recording import Call, Program, Recorder, Symbol
from tiercel.ops.rope import rotation_tables
from tiercel.types import AttentionBatch, KVLayout, RopeConfig, SamplingBatch, StepInput, StepOutput, Weight

T = TypeVar("T")
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
_NOTHING: Int32 = np.zeros(0, np.int32)


class CompiledModel:
    """A model as a program. on_layer: see `NativeProgram.run`; seconds: where time per instruction is added up, or None."""

    def __init__(self, program: NativeProgram, layouts: Sequence[KVLayout]) -> None:
        self.program = program
        self.layouts = tuple(layouts)
        self.on_layer: LayerHook | None = None
        self.seconds: npt.NDArray[np.float64] | None = None

    def __call__(self, ops: Ops, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        token_ids, positions, rows = (_as(np.ndarray, h) for h in (inputs.token_ids, inputs.positions, inputs.sample_rows))
        arenas = [_as(BoundKV, handle) for handle in kv]
        batches = [
            by_position(_as(AttentionBatch, batch), arena.layout) for batch, arena in zip(inputs.batches, arenas, strict=True)
        ]
        groups = [group_struct(arena, batch) for arena, batch in zip(arenas, batches, strict=True)]
        self.program.reserve(len(token_ids), len(rows))
        self.program.run(step_struct(token_ids, positions, rows, len(token_ids), groups, self.seconds), self.on_layer)
        return Handle(self.program.result(self.program.plan.results[0], len(rows)))


class CpuOps(Ops):
    """Handles are float32 arrays [rows, channels], or what `pack`, `bind_kv` and `begin` return."""

    def __init__(self, threads: int | None = None, level: str = "auto", dtype: PackedDtype = "stored") -> None:
        """level: instruction set to use (avx2, avx512, amx), auto = the best there is. dtype: what weights are packed as.

        Raises ModelError where there is no native library, InvalidInput for a level that this machine lacks.
        """
        self.pool = Pool(threads or 1, level)
        self._dtype = dtype

    @property
    def numerics(self) -> str:
        return "cpu"  # the same bits at every instruction set and thread count, for weights of the same formats

    @property
    def balances(self) -> bool:
        return self._dtype == "int8"  # one scale per row: far-out channels would cost all others

    # -- constants ---------------------------------------------------------------------------------------------------------

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        return Handle(pack(self.pool, weights, self._dtype, table=table))

    def pack_rope(self, rope: RopeConfig, max_position: int) -> Handle:
        tables = rotation_tables(rope, max_position)
        return Handle(Packed(tuple(plain(table) for table in tables), rope.interleaved))

    def bind_kv(self, arena: npt.NDArray[np.uint8], layout: KVLayout) -> Handle:
        return Handle(bind_kv(arena, layout))

    # -- models ------------------------------------------------------------------------------------------------------------

    def compile(self, model: Forward, layouts: Sequence[KVLayout]) -> CompiledModel:
        program = Recorder().record(model, len(layouts))
        numbers: dict[object, int] = {handle: group for group, handle in enumerate(program.kv)}
        numbers |= {handle: group for group, handle in enumerate(program.inputs.batches)}
        lowering = Lowering(layouts, _uses(program))
        lowering.lower(program.calls, numbers)
        return CompiledModel(NativeProgram(self.pool, lowering.finish(program.result)), layouts)

    def restore(self, path: Path, layouts: Sequence[KVLayout]) -> CompiledModel | None:
        plan = saved.load(path)
        return CompiledModel(NativeProgram(self.pool, plan), layouts) if plan is not None else None

    def save(self, forward: Forward, path: Path) -> bool:
        saved.save(_as(CompiledModel, forward).program.plan, path)
        return True

    # -- a step ------------------------------------------------------------------------------------------------------------

    def begin(self, step: StepInput) -> StepHandles:
        return StepHandles(
            token_ids=Handle(step.token_ids),
            positions=Handle(step.positions),
            batches=tuple(Handle(group) for group in step.groups),
            sample_rows=Handle(step.sampling.rows),
        )

    def copy_blocks(self, kv: Handle, pairs: npt.NDArray[np.int32]) -> None:
        bound = _as(BoundKV, kv)
        copy_blocks(self.pool, bound.arena, bound.layout, bound.arena, bound.layout, pairs)
        if bound.open is not None:
            bound.open.copy(pairs)

    def sample(self, logits: Handle, sampling: SamplingBatch) -> StepOutput:
        return sample(self.pool, _as(np.ndarray, logits), sampling)

    # -- single ops --------------------------------------------------------------------------------------------------------

    def embedding(self, token_ids: Handle, table: Handle) -> Handle:
        return self._now("embedding", token_ids, table, token_ids=_as(np.ndarray, token_ids))

    def add(self, a: Handle, b: Handle) -> Handle:
        return self._now("add", a, b)

    def rms_norm(self, x: Handle, weight: Handle, eps: float) -> Handle:
        return self._now("rms_norm", x, weight, eps)

    def linear(self, x: Handle, weight: Handle, bias: Handle | None = None) -> Handle:
        return self._now("linear", x, weight, bias)

    def split(self, x: Handle, sizes: Sequence[int]) -> tuple[Handle, ...]:
        return tuple(Handle(part) for part in np.split(_as(np.ndarray, x), np.cumsum(sizes)[:-1], axis=1))

    def rope(self, x: Handle, positions: Handle, table: Handle) -> Handle:
        return self._now("rope", x, positions, table, positions=_as(np.ndarray, positions))

    def silu_mul(self, gate: Handle, up: Handle) -> Handle:
        return self._now("silu_mul", gate, up)

    def kv_write(self, k: Handle, v: Handle, kv: Handle, layer: int, batch: Handle) -> None:
        self._run_now(("kv_write", (k, v, kv, layer, batch), {}), outputs=0, kv=kv, batch=batch)

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
        options: dict[str, object] = {"scale": scale, "window": window, "sink_tokens": sink_tokens}
        hidden = None if mask is None else np.ascontiguousarray(_as(np.ndarray, mask))
        call = ("attention", (q, kv, layer, batch), options)
        results = self._run_now(call, outputs=1 + return_lse, kv=kv, batch=batch, mask=hidden)
        return results if return_lse else results[0]

    def select_rows(self, x: Handle, rows: Handle) -> Handle:
        return self._now("select_rows", x, rows, sample_rows=_as(np.ndarray, rows))

    def _now(self, op: str, *arguments: object, **arrays: Int32) -> Handle:
        return self._run_now((op, arguments, {}), outputs=1, arrays=arrays)[0]

    def _run_now(
        self,
        call: tuple[str, tuple[object, ...], dict[str, object]],
        *,
        outputs: int,
        kv: Handle | None = None,
        batch: Handle | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
        arrays: Mapping[str, Int32] = MappingProxyType({}),
    ) -> tuple[Handle, ...]:
        """Makes one call. Its float32 arrays are brought as they are, and its results copied out. arrays: those of a step."""
        token_ids, positions, sample_rows = (
            np.ascontiguousarray(arrays.get(name, _NOTHING), np.int32) for name in ("token_ids", "positions", "sample_rows")
        )
        op, arguments, options = call
        bound = None if kv is None else _as(BoundKV, kv)
        lowering = Lowering([bound.layout] if bound is not None else [])
        brought = {place: x for place, x in enumerate(arguments) if isinstance(x, np.ndarray) and x.dtype == np.float32}
        places: list[object] = list(arguments)
        for place, x in brought.items():
            places[place] = Symbol(place)
            lowering.bring(places[place], x.shape[1])
        results = tuple(Handle(Symbol(-1 - number)) for number in range(outputs))
        output = results[0] if outputs == 1 else results
        lowering.lower([Call(op, tuple(places), options, output)], {kv: 0} if kv is not None else {})
        program = NativeProgram(self.pool, lowering.finish(*results))
        rows = len(next(iter(brought.values()), token_ids))
        program.reserve(rows, len(sample_rows))
        for buffer, x in enumerate(brought.values()):
            program.bring(buffer, x)
        groups = []
        if bound is not None and batch is not None:
            tables = by_position(_as(AttentionBatch, batch), bound.layout)
            groups = [group_struct(bound, tables, mask)]
        program.run(step_struct(token_ids, positions, sample_rows, rows, groups, None))
        count = len(sample_rows) if op == "select_rows" else rows
        return tuple(Handle(program.result(place, count).copy()) for place in program.plan.results)


def _uses(program: Program) -> Counter[object]:
    """How often each symbol of a step is read, the result counting once more."""
    read = [x for call in program.calls for x in (*call.arguments, *call.options.values()) if isinstance(x, Symbol)]
    return Counter([*read, program.result])


def _as(kind: type[T], handle: object) -> T:
    """What a handle holds. Raises TypeError for a handle of another kind or back end."""
    if not isinstance(handle, kind):
        raise TypeError(f"expected a {kind.__name__} of the native back end, got a {type(handle).__name__}")
    return handle
