"""From a recorded model to instructions: values get memory, neighbours are fused, threads are told where to wait.

What is fused: a sum into the product before it (residuals); rounding or quantising a product's input into whatever computes
that input (norms, activations, sums). Rotation happens in place. Memory is handed on once its last reader is through.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from tiercel.ops.cpu.library import INSTRUCTION
from tiercel.ops.cpu.packing import Packed
from tiercel.ops.cpu.plan import BufferSpec, Op, Place, Plan
from tiercel.ops.recording import Call
from tiercel.types import KVLayout

Kind = Literal["f32", "bf16", "q8", "i8"]
FORMS: tuple[Kind, ...] = ("bf16", "q8", "i8")  # that products read

# Each thread does the same rows in all of these, so that nobody waits between two of them.
_BY_ROWS = frozenset({Op.EMBEDDING, Op.RMS_NORM, Op.ROPE, Op.KV_WRITE, Op.CONVERT})
# These can leave their result in the form that a product reads.
_EMITTERS = frozenset({Op.EMBEDDING, Op.ADD, Op.RMS_NORM, Op.SILU_MUL, Op.SELECT_ROWS, Op.CONVERT})


def form_bytes(kind: Kind, channels: int) -> int:
    """Bytes of one row of a buffer (native/activations.h). Forms in tiles of 16 rows take whole tiles where there are more.

    float32 rows take an odd number of cache lines: some rows at the same channel then lie in different sets of a cache.
    """
    padded = -(-channels // 32) * 32
    size = {"f32": 4 * channels, "bf16": 2 * padded, "q8": padded + padded // 32 * 4 + padded // 16 * 4}
    size["i8"] = -(-channels // 64) * 64 + 128  # a scale and a sum of one row take 64 each
    lines = -(-size[kind] // 64)
    return 64 * (lines | 1 if kind == "f32" else lines)


@dataclass(eq=False)
class Area:
    """Memory of one value in one form, from the node that writes it to the last that reads it."""

    kind: Kind
    channels: int
    samples: bool
    last: int = -1
    buffer: int = -1

    @property
    def row_bytes(self) -> int:
        return form_bytes(self.kind, self.channels)


@dataclass(eq=False)
class Value:
    """Channels of an area. A part of a split value has its offset; only whole values have forms."""

    area: Area
    offset: int
    channels: int
    producer: "Node | None" = None
    forms: dict[Kind, Area] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.channels == self.area.channels


@dataclass(eq=False)
class Node:
    """An instruction in the making. product_input: what a LINEAR reads in the forms its weights want."""

    op: Op
    number: int
    inputs: list[Value | None] = field(default_factory=list)
    output: Value | None = None
    product_input: Value | None = None
    constants: list[int] = field(default_factory=list)
    attributes: dict[str, float] = field(default_factory=dict)
    samples: bool = False


class Lowering:
    """Lowers calls one by one; `finish` makes the plan. Symbols of kv and batches are known by their group's number."""

    def __init__(self, layouts: Sequence[KVLayout], uses: Counter[object] | None = None) -> None:
        """uses: how often each symbol is read. None = unknown: nothing is computed in place or fused into what it reads."""
        self._layouts = layouts
        self._uses = uses
        self._values: dict[object, Value] = {}
        self._nodes: list[Node] = []
        self._brought: list[Area] = []
        self._constants: list[Packed] = []
        self._numbers: dict[int, int] = {}
        self._needed: set[Area] = set()  # float32 areas that somebody reads

    # -- what a caller brings and takes ------------------------------------------------------------------------------------

    def bring(self, symbol: object, channels: int) -> int:
        """A value that is there before the program runs. Returns the number of its buffer."""
        self._brought.append(Area("f32", channels, samples=False))
        self._values[symbol] = Value(self._brought[-1], 0, channels)
        return len(self._brought) - 1

    def finish(self, *results: object) -> Plan:
        """results: the symbols of what is read after the program ran; each a whole value."""
        for symbol in results:
            self._read(self._values[symbol], len(self._nodes))
        buffers = self._allocate()
        instructions = np.zeros(len(self._nodes), INSTRUCTION)
        before: Op | None = None
        for entry, node in zip(instructions, self._nodes, strict=True):
            self._encode(entry, node)
            entry["barrier"] = before is not None and not (before in _BY_ROWS and node.op in _BY_ROWS)
            before = node.op
        areas = [self._values[symbol].area for symbol in results]
        places = tuple(Place(area.buffer, area.channels) for area in areas)
        return Plan(instructions, tuple(self._constants), tuple(buffers), places)

    # -- calls -------------------------------------------------------------------------------------------------------------

    def lower(self, calls: Iterable[Call], groups: dict[object, int]) -> None:
        """groups: the KV group that a kv or batch symbol stands for."""
        for call in calls:
            getattr(self, f"_{call.op}")(call, groups)

    def _embedding(self, call: Call, groups: dict[object, int]) -> None:
        table = _packed(call.arguments[1])
        node = self._node(Op.EMBEDDING, constants=[self._constant(table)])
        self._produce(call.output, node, table.columns)

    def _add(self, call: Call, groups: dict[object, int]) -> None:
        for product, other in (call.arguments[::-1], call.arguments):
            value, rest = self._values[product], self._values[other]
            node = value.producer
            if (
                node is not None
                and node.op is Op.LINEAR
                and not node.inputs
                and value.whole
                and self._read_once(product)
                and (rest.producer is None or rest.producer.number < node.number)
            ):
                node.inputs = [rest]
                self._read(rest, node.number)
                self._values[call.output] = value
                return
        a, b = (self._values[argument] for argument in call.arguments)
        self._produce(call.output, self._node(Op.ADD, [a, b], samples=a.area.samples), a.channels)

    def _rms_norm(self, call: Call, groups: dict[object, int]) -> None:
        x, weight, eps = call.arguments
        value = self._values[x]
        node = self._node(
            Op.RMS_NORM, [value], [self._constant(_packed(weight))], samples=value.area.samples, real=cast(float, eps)
        )
        self._produce(call.output, node, value.channels)

    def _linear(self, call: Call, groups: dict[object, int]) -> None:
        x, weight, bias = call.arguments
        value, packed = self._values[x], _packed(weight)
        kinds = _forms_for(packed)
        value = self._in_forms(value, kinds)
        constants = [self._constant(packed)] + ([self._constant(_packed(bias))] if bias is not None else [])
        node = self._node(Op.LINEAR, [], constants, samples=value.area.samples)
        node.product_input = value
        for kind in kinds:
            value.forms[kind].last = node.number
        self._produce(call.output, node, packed.rows)

    def _split(self, call: Call, groups: dict[object, int]) -> None:
        x, sizes = call.arguments
        value, offset = self._values[x], 0
        for symbol, size in zip(cast(tuple[object, ...], call.output), cast(tuple[int, ...], sizes), strict=True):
            self._values[symbol] = Value(value.area, value.offset + offset, size, value.producer)
            offset += size

    def _rope(self, call: Call, groups: dict[object, int]) -> None:
        x, _, table = call.arguments
        value = self._values[x]
        node = self._node(Op.ROPE, [value], [self._constant(_packed(table))], samples=value.area.samples)
        if self._read_once(x):
            self._values[call.output] = node.output = Value(value.area, value.offset, value.channels, node)
        else:
            self._produce(call.output, node, value.channels)

    def _silu_mul(self, call: Call, groups: dict[object, int]) -> None:
        gate, up = (self._values[argument] for argument in call.arguments)
        self._produce(call.output, self._node(Op.SILU_MUL, [gate, up], samples=gate.area.samples), gate.channels)

    def _kv_write(self, call: Call, groups: dict[object, int]) -> None:
        k, v, kv, layer, _ = call.arguments
        group = groups[kv]
        place = self._layouts[group].layers.index(cast(int, layer))
        self._node(Op.KV_WRITE, [self._values[k], self._values[v]], group=group, layer=place)

    def _attention(self, call: Call, groups: dict[object, int]) -> None:
        q, kv, layer, _ = call.arguments
        value, group, options = self._values[q], groups[kv], call.options
        layout = self._layouts[group]
        heads = value.channels // layout.head_dim
        node = self._node(
            Op.ATTENTION,
            [value],
            group=group,
            layer=layout.layers.index(cast(int, layer)),
            heads=heads,
            window=cast("int | None", options.get("window")) or 0,
            sink_tokens=cast(int, options.get("sink_tokens", 0)),
            real=cast(float, options["scale"]),
        )
        outputs = call.output if isinstance(call.output, tuple) else (call.output,)
        self._produce(outputs[0], node, value.channels)
        if len(outputs) == 2:
            lse = Value(Area("f32", heads, samples=False, last=node.number), 0, heads, node)
            self._values[outputs[1]] = lse
            node.inputs.append(lse)
            self._needed.add(lse.area)

    def _select_rows(self, call: Call, groups: dict[object, int]) -> None:
        value = self._values[call.arguments[0]]
        self._produce(call.output, self._node(Op.SELECT_ROWS, [value], samples=True), value.channels)

    # -- nodes and values --------------------------------------------------------------------------------------------------

    def _node(
        self,
        op: Op,
        inputs: Sequence[Value] = (),
        constants: Sequence[int] = (),
        *,
        samples: bool = False,
        **attributes: float,
    ) -> Node:
        node = Node(op, len(self._nodes), list(inputs), constants=list(constants), attributes=attributes, samples=samples)
        self._nodes.append(node)
        for value in inputs:
            self._read(value, node.number)
        return node

    def _produce(self, symbol: object, node: Node, channels: int) -> None:
        area = Area("f32", channels, node.samples, last=node.number)
        self._values[symbol] = node.output = Value(area, 0, channels, node)

    def _read(self, value: Value, number: int) -> None:
        value.area.last = max(value.area.last, number)
        self._needed.add(value.area)

    def _read_once(self, symbol: object) -> bool:
        return self._uses is not None and self._uses[symbol] == 1

    def _in_forms(self, value: Value, kinds: Sequence[Kind]) -> Value:
        """The value with the given forms: written by whatever computes it, or by a conversion of its own."""
        missing = [kind for kind in kinds if kind not in value.forms]
        producer = value.producer
        if missing and (producer is None or producer.op not in _EMITTERS or not value.whole):
            producer = self._node(Op.CONVERT, [value], samples=value.area.samples)
            value = Value(Area("f32", value.channels, value.area.samples, last=producer.number), 0, value.channels, producer)
            producer.output, missing = value, list(kinds)
        for kind in missing:
            value.forms[kind] = Area(kind, value.channels, value.area.samples)
        return value

    def _constant(self, packed: Packed) -> int:
        if id(packed) not in self._numbers:
            self._numbers[id(packed)] = len(self._constants)
            self._constants.append(packed)
        return self._numbers[id(packed)]

    # -- memory ------------------------------------------------------------------------------------------------------------

    def _allocate(self) -> list[BufferSpec]:
        """Gives each area a buffer: one that is free, of its size and kind of rows, or a new one."""
        buffers: list[BufferSpec] = []
        free: list[int] = []
        live: list[Area] = []
        for area in self._brought:
            area.buffer = len(buffers)  # as `bring` said
            buffers.append(BufferSpec(area.row_bytes, area.samples))
        for node in self._nodes:
            for area in self._areas(node):
                if area.buffer >= 0:
                    continue
                residual = node.inputs[0] if node.op is Op.LINEAR and node.inputs else None
                if residual is not None and residual.area.last == node.number and residual.whole and residual.area in live:
                    area.buffer = residual.area.buffer  # each element is read before it is written
                    live.remove(residual.area)
                else:
                    spec = BufferSpec(area.row_bytes, area.samples)
                    area.buffer = next((number for number in free if buffers[number] == spec), len(buffers))
                    if area.buffer == len(buffers):
                        buffers.append(spec)
                    else:
                        free.remove(area.buffer)
                live.append(area)
            for area in [area for area in live if area.last <= node.number]:
                live.remove(area)
                free.append(area.buffer)
        return buffers

    def _areas(self, node: Node) -> list[Area]:
        """What a node writes: its float32 result if somebody reads that, and its forms."""
        written = []
        if node.output is not None:
            if self._keeps_float32(node):
                written.append(node.output.area)
            written += node.output.forms.values()
        if node.op is Op.ATTENTION and len(node.inputs) == 2 and node.inputs[1] is not None:
            written.append(node.inputs[1].area)
        return written

    def _keeps_float32(self, node: Node) -> bool:
        output = node.output
        return output is not None and (output.area in self._needed or node.op not in _EMITTERS)

    # -- encoding ----------------------------------------------------------------------------------------------------------

    def _encode(self, entry: np.void, node: Node) -> None:
        entry["op"], entry["samples"] = node.op, node.samples
        entry["inputs"] = entry["out"] = (-1, 0, 0)
        for place, value in zip(entry["inputs"], node.inputs, strict=False):
            if value is not None:
                place[:] = (value.area.buffer, value.offset, value.channels)
        if node.output is not None and self._keeps_float32(node):
            entry["out"] = (node.output.area.buffer, node.output.offset, node.output.channels)
        forms = node.output.forms if node.output is not None else {}
        sources = node.product_input.forms if node.product_input is not None else {}
        for kind in FORMS:
            entry[f"out_{kind}"] = forms[kind].buffer if kind in forms else -1
            entry[f"in_{kind}"] = sources[kind].buffer if kind in sources else -1
        entry["constant"] = (*node.constants, -1, -1)[:2]
        for name, number in node.attributes.items():
            entry[name] = number


def _forms_for(weight: Packed) -> list[Kind]:
    """The forms of its input that a product with a weight reads."""
    reads: dict[Kind, bool] = {"bf16": weight.reads_bf16, "q8": weight.reads_q8, "i8": weight.reads_i8}
    return [kind for kind, wanted in reads.items() if wanted]


def _packed(handle: object) -> Packed:
    if not isinstance(handle, Packed):
        raise TypeError(f"expected a packed weight of the native back end, got a {type(handle).__name__}")
    return handle
