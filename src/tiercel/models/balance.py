"""Weights that lose less in 8 bits: the inputs and columns of a product made equally large, channel by channel.

A product stays the same when input channel k is divided by s_k and column k of the matrix is multiplied by it. What it costs to
round both to 8 bits, with one scale per row of either, is least where s_k^2 is the channel's magnitude over the column's (after
SmoothQuant, https://arxiv.org/abs/2211.10438, section 4). The division takes no time: behind a norm the norm's own weight makes
it, elsewhere the rows of the matrix before. Each s_k is a power of two, so that nothing is rounded on the way.

How large channels are is found by reading random tokens, once, when a model is packed. The head is left as it is: its matrix
may be the token table as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tiercel.kv import Arena
from tiercel.models.registry import Model
from tiercel.ops import Handle, Ops
from tiercel.ops.dequantize import dequantize
from tiercel.types import BLOCK_TOKENS, FORMATS, AttentionBatch, KVGroup, ModelConfig, SamplingBatch, StepInput, Weight

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
TOKENS = 512


class Place(NamedTuple):
    """Matrices of a layer that read the same channels, and the tensors that make these."""

    readers: tuple[str, ...]
    makers: tuple[str, ...]


PLACES = (
    Place(("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), ("input_layernorm.weight",)),
    Place(("self_attn.o_proj.weight",), ("self_attn.v_proj.weight", "self_attn.v_proj.bias")),
    Place(("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("post_attention_layernorm.weight",)),
    Place(("mlp.down_proj.weight",), ("mlp.up_proj.weight",)),
)


class Balanced(Mapping[str, Weight]):
    """The weights of a model, balanced when the first is asked for. What is changed comes as float32, made anew each time."""

    def __init__(self, weights: Mapping[str, Weight], magnitudes: "Mapping[str, Float64]", config: ModelConfig) -> None:
        """magnitudes: root mean square of each input channel of a matrix, by the matrix's name."""
        self._weights, self._magnitudes, self._config = weights, magnitudes, config

    def __getitem__(self, name: str) -> Weight:
        weight = self._weights[name]
        columns, rows = self._columns.get(name), self._rows.get(name)
        if columns is None and rows is None:
            return weight
        values = dequantize(weight)
        if columns is not None:
            values *= columns
        if rows is not None:
            values /= rows[:, None] if values.ndim == 2 else rows
        return Weight(values.view(np.uint8).reshape(-1), FORMATS["F32"], weight.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def _columns(self) -> Mapping[str, Float32]:
        return self._factors[0]

    @property
    def _rows(self) -> Mapping[str, Float32]:
        return self._factors[1]

    @cached_property
    def _factors(self) -> tuple[dict[str, Float32], dict[str, Float32]]:
        """What columns are multiplied by, and what rows are divided by, by the tensor's name."""
        columns: dict[str, Float32] = {}
        rows: dict[str, Float32] = {}
        for layer in range(self._config.num_layers):
            for place in PLACES:
                readers = [f"model.layers.{layer}.{name}" for name in place.readers]
                makers = [f"model.layers.{layer}.{name}" for name in place.makers]
                matrices = np.concatenate([_of_unit_rows(self._weights[name]) for name in readers])
                heads = self._config.num_heads // self._config.num_kv_heads if "o_proj" in readers[0] else 1
                factors, made = _factors(self._magnitudes[readers[0]], np.sqrt((matrices**2).mean(axis=0)), heads, self._config)
                columns |= dict.fromkeys(readers, factors)
                rows |= {name: made for name in makers if name in self._weights}
        return columns, rows


def _factors(inputs: Float64, columns: Float32, heads: int, config: ModelConfig) -> tuple[Float32, Float32]:
    """s of the channels, and of what makes them, where `heads` query heads share the channels of a kv head."""
    wanted = _log2(inputs) - _log2(columns.astype(np.float64))
    if heads > 1:
        shape = config.num_kv_heads, heads, config.head_dim
        made = wanted.reshape(shape).mean(axis=1)
        powers = np.exp2(np.round(made / 2)).astype(np.float32)
        return np.repeat(powers[:, None], heads, axis=1).reshape(-1), powers.reshape(-1)
    powers = np.exp2(np.round((wanted - wanted.mean()) / 2)).astype(np.float32)
    return powers, powers


def _log2(magnitudes: Float64) -> Float64:
    """Channels that are hardly used count as small, not as nothing."""
    return np.log2(np.maximum(magnitudes, max(1e-3 * magnitudes.mean(), 1e-30)))


def _of_unit_rows(weight: Weight) -> Float32:
    values = dequantize(weight)
    values /= np.maximum(np.sqrt((values**2).sum(axis=1, keepdims=True)), np.float32(1e-30))
    return values


class Watched:
    """A back end whose products tell how large their inputs are. Everything else it does as before."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._packed: list[tuple[Handle, tuple[Weight, ...]]] = []
        self._magnitudes: dict[int, Float64] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        handle = self._ops.pack(*weights, table=table)
        self._packed.append((handle, weights))
        return handle

    def linear(self, x: Handle, weight: Handle, bias: Handle | None = None) -> Handle:
        values = np.asarray(x).astype(np.float64)
        self._magnitudes[id(weight)] = np.sqrt((values**2).mean(axis=0))
        return self._ops.linear(x, weight, bias)

    def magnitudes(self, names: Mapping[int, str]) -> dict[str, Float64]:
        """By the names of matrices. names: by the identity of their weights."""
        found = ((self._magnitudes.get(id(handle)), weights) for handle, weights in self._packed)
        return {names[id(weight)]: size for size, weights in found if size is not None for weight in weights}


def watch(model: Model, ops: Ops, config: ModelConfig, groups: Sequence[KVGroup]) -> None:
    """Lets the model read random tokens from an empty cache."""
    count = min(TOKENS, config.max_position)
    blocks = -(-count // BLOCK_TOKENS)
    arena = Arena(groups, blocks)
    kv = tuple(ops.bind_kv(area, group.layout) for area, group in zip(arena.groups, groups, strict=True))
    token_ids = np.random.default_rng(0).integers(config.vocab_size, size=count).astype(np.int32)
    positions = np.arange(count, dtype=np.int32)
    batch = AttentionBatch(
        query_start=np.array([0, count], np.int32),
        q_positions=positions,
        block_tables=np.arange(blocks, dtype=np.int32)[None],
        lengths=np.array([count], np.int32),
        slot_mapping=positions.astype(np.int64),
    )
    none = np.empty((0, 2), np.int32)
    last_row = SamplingBatch.greedy(np.array([count - 1], np.int32))
    step = StepInput(token_ids, positions, (batch,) * len(groups), (none,) * len(groups), last_row)
    model(ops, ops.begin(step), kv)
