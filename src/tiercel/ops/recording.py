"""A back end that computes nothing: it writes down what a model asks for, so that the list can run elsewhere.

    recorder = Recorder()
    model = build_model(config, weights, recorder)
    program = recorder.record(model, groups=1)
    same_model = program.load(ops)

Neither rows nor requests exist while a model is recorded, so one program serves every step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from tiercel.ops.base import Forward, Handle, Ops, StepHandles
from tiercel.types import KVLayout, RopeConfig, SamplingBatch, StepInput, Weight


@dataclass(frozen=True)
class Symbol:
    """A value that a program will hold."""

    number: int


class Call(NamedTuple):
    """One op. Arguments and options are symbols, or constants such as a layer number; `output` has the shape of its result."""

    op: str
    arguments: tuple[object, ...]
    options: dict[str, object]
    output: Handle | tuple[Handle, ...] | None


@dataclass(frozen=True, eq=False)
class Program:
    """A recorded model.

    constants: calls made once, such as packing weights; calls: those of a step
    inputs, kv: symbols a step brings; result: the symbol of the logits
    """

    constants: tuple[Call, ...]
    calls: tuple[Call, ...]
    inputs: StepHandles
    kv: tuple[Handle, ...]
    result: Handle

    def load(self, ops: Ops) -> Forward:
        """Makes the constants on a back end. What comes back computes a step there as the recorded model does."""
        constants: dict[object, Handle] = {}
        _run(ops, self.constants, constants)

        def forward(ops: Ops, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
            values = dict(constants)
            values.update(zip(_flat(self.inputs), _flat(inputs), strict=True))
            values.update(zip(self.kv, kv, strict=True))
            _run(ops, self.calls, values)
            return values[self.result]

        return forward


def _run(ops: Ops, calls: Iterable[Call], values: dict[object, Handle]) -> None:
    """Makes calls in order. Symbols are looked up in `values`, and outputs added there."""
    for op, arguments, options, output in calls:
        arguments = tuple(_resolve(argument, values) for argument in arguments)
        options = {name: _resolve(option, values) for name, option in options.items()}
        result = getattr(ops, op)(*arguments, **options)
        if isinstance(output, tuple):
            values.update(zip(output, result, strict=True))
        elif output is not None:
            values[output] = result


def _resolve(argument: object, values: dict[object, Handle]) -> object:
    return values[argument] if isinstance(argument, Symbol) else argument


def _flat(inputs: StepHandles) -> tuple[Handle, ...]:
    return (inputs.token_ids, inputs.positions, *inputs.batches, inputs.sample_rows)


class Recorder(Ops):
    """Handles are symbols."""

    def __init__(self) -> None:
        self._symbols = 0
        self._calls: list[Call] = []

    @property
    def numerics(self) -> str:
        return "recording"

    @property
    def balances(self) -> bool:
        return False

    def record(self, model: Forward, groups: int) -> Program:
        """Runs a model that was built on this recorder, and lists it. groups: its number of KV groups."""
        constants, symbols = self._calls, self._symbols
        self._calls = []
        inputs = StepHandles(self._new(), self._new(), tuple(self._new() for _ in range(groups)), self._new())
        kv = tuple(self._new() for _ in range(groups))
        result = model(self, inputs, kv)
        program = Program(tuple(constants), tuple(self._calls), inputs, kv, result)
        self._calls, self._symbols = constants, symbols
        return program

    def _new(self) -> Handle:
        self._symbols += 1
        return Handle(Symbol(self._symbols))

    def _call(self, op: str, *arguments: object, **options: object) -> Handle:
        output = self._new()
        self._calls.append(Call(op, arguments, options, output))
        return output

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        return self._call("pack", *weights, table=table)

    def pack_rope(self, rope: RopeConfig, max_position: int) -> Handle:
        return self._call("pack_rope", rope, max_position)

    def embedding(self, token_ids: Handle, table: Handle) -> Handle:
        return self._call("embedding", token_ids, table)

    def add(self, a: Handle, b: Handle) -> Handle:
        return self._call("add", a, b)

    def rms_norm(self, x: Handle, weight: Handle, eps: float) -> Handle:
        return self._call("rms_norm", x, weight, eps)

    def linear(self, x: Handle, weight: Handle, bias: Handle | None = None) -> Handle:
        return self._call("linear", x, weight, bias)

    def split(self, x: Handle, sizes: Sequence[int]) -> tuple[Handle, ...]:
        parts = tuple(self._new() for _ in sizes)
        self._calls.append(Call("split", (x, tuple(sizes)), {}, parts))
        return parts

    def rope(self, x: Handle, positions: Handle, table: Handle) -> Handle:
        return self._call("rope", x, positions, table)

    def silu_mul(self, gate: Handle, up: Handle) -> Handle:
        return self._call("silu_mul", gate, up)

    def kv_write(self, k: Handle, v: Handle, kv: Handle, layer: int, batch: Handle) -> None:
        self._calls.append(Call("kv_write", (k, v, kv, layer, batch), {}, None))

    def attention(self, q: Handle, kv: Handle, layer: int, batch: Handle, **options: object) -> Any:
        if not options.get("return_lse"):
            return self._call("attention", q, kv, layer, batch, **options)
        results = (self._new(), self._new())
        self._calls.append(Call("attention", (q, kv, layer, batch), options, results))
        return results

    def select_rows(self, x: Handle, rows: Handle) -> Handle:
        return self._call("select_rows", x, rows)

    # -- what surrounds a model rather than being part of it -----------------------------------------------------------------

    def compile(self, model: Forward, layouts: Sequence[KVLayout]) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def save(self, forward: Forward, path: Path) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def restore(self, path: Path, layouts: Sequence[KVLayout]) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def bind_kv(self, arena: npt.NDArray[np.uint8], layout: KVLayout) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def begin(self, step: StepInput) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def copy_blocks(self, kv: Handle, pairs: npt.NDArray[np.int32]) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)

    def sample(self, logits: Handle, sampling: SamplingBatch) -> NoReturn:
        raise NotImplementedError(_OUTSIDE)


_OUTSIDE = "a recording has no steps: load the program on a back end that computes"
