"""The vocabulary of a model. A back end implements `Ops`; models and layers call it and compute nothing themselves.

Values between ops are opaque handles owned by the back end: nobody else does arithmetic, indexing or branching on one. Matrices
are row-major [rows, channels], one row per token of the step. A row's result depends on that row only: reduction orders over
channels and over context are fixed within a back end's numerics class, whatever else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType, Protocol, overload

import numpy as np
import numpy.typing as npt

from tiercel.types import KVLayout, RopeConfig, SamplingBatch, StepInput, StepOutput, Weight

Handle = NewType("Handle", object)


@dataclass(frozen=True, eq=False)
class StepHandles:
    """A step as the back end sees it. batches: one attention batch per KV group."""

    token_ids: Handle
    positions: Handle
    batches: tuple[Handle, ...]
    sample_rows: Handle


class Ops(Protocol):
    """One implementation per back end: `reference` (torch), `cpu` (native), `recording` (lists what a model calls)."""

    @property
    def numerics(self) -> str:
        """The numerics class: results are bit-equal within it, and KV blocks are shared only within it."""

    @property
    def balances(self) -> bool:
        """Whether a model's weights are to be balanced (`models.balance`) before they are packed."""

    # -- constants, made once ------------------------------------------------------------------------------------------------

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        """The back end's own form of a weight. Several [out_i, in] matrices are joined along `out`.

        table: each row stands for a token; a back end that quantises may keep such a matrix finer than others.
        """

    def pack_rope(self, rope: RopeConfig, max_position: int) -> Handle:
        """Rotation tables for positions 0 .. max_position - 1."""

    def bind_kv(self, arena: npt.NDArray[np.uint8], layout: KVLayout) -> Handle:
        """A view of a group's arena, [num_blocks * layout.block_bytes] page-aligned bytes. Never a copy."""

    # -- models ---------------------------------------------------------------------------------------------------------------

    def compile(self, model: "Forward", layouts: Sequence[KVLayout]) -> "Forward":
        """A model that was built on this back end, in the form it runs best; an eager back end returns it as it is.

        layouts: of the model's KV groups.
        """

    def save(self, forward: "Forward", path: Path) -> bool:
        """Writes a compiled model with its packed weights. False where the back end has no form for that. Raises OSError."""

    def restore(self, path: Path, layouts: Sequence[KVLayout]) -> "Forward | None":
        """Maps what `save` wrote. None where there is nothing, or nothing that this version can use."""

    # -- a step ---------------------------------------------------------------------------------------------------------------

    def begin(self, step: StepInput) -> StepHandles:
        """Brings a step's arrays to the back end."""

    def copy_blocks(self, kv: Handle, pairs: npt.NDArray[np.int32]) -> None:
        """Copies whole blocks. pairs: [n, 2] (source, destination) block ids; all sources are read first."""

    def embedding(self, token_ids: Handle, table: Handle) -> Handle:
        """Rows of `table` [vocab, channels] -> [rows, channels]."""

    def add(self, a: Handle, b: Handle) -> Handle:
        """Elementwise sum."""

    def rms_norm(self, x: Handle, weight: Handle, eps: float) -> Handle:
        """x / sqrt(mean(x^2) + eps) * weight over each run of len(weight) channels (a whole row, or each head of it)."""

    def linear(self, x: Handle, weight: Handle, bias: Handle | None = None) -> Handle:
        """x [rows, in] times weight [out, in] transposed -> [rows, out]."""

    def split(self, x: Handle, sizes: Sequence[int]) -> tuple[Handle, ...]:
        """Cuts the channels of x into parts of the given sizes."""

    def rope(self, x: Handle, positions: Handle, table: Handle) -> Handle:
        """Rotates every head of x [rows, heads * head_dim] by its row's position."""

    def silu_mul(self, gate: Handle, up: Handle) -> Handle:
        """silu(gate) * up."""

    def kv_write(self, k: Handle, v: Handle, kv: Handle, layer: int, batch: Handle) -> None:
        """Stores each row's key and value [rows, kv_heads * head_dim] at its slot. Before the attention that reads them."""

    @overload
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
        return_lse: Literal[False] = False,
    ) -> Handle: ...

    @overload
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
        return_lse: Literal[True],
    ) -> tuple[Handle, Handle]: ...

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
    ) -> Handle | tuple[Handle, Handle]:
        """softmax(q k^T * scale) v over the blocks of each row's request -> [rows, heads * head_dim].

        A row at position p sees keys at positions <= p; with `window`, only those at distance < window, or among the first
        `sink_tokens` positions. Query heads share kv heads in equal runs (GQA). `mask`: bool [rows, keys by position], made by
        the back end, True = hidden as well. With `return_lse` also the log of the softmax denominator, [rows, heads].
        """

    def select_rows(self, x: Handle, rows: Handle) -> Handle:
        """Some rows of x, in the order given."""

    def sample(self, logits: Handle, sampling: SamplingBatch) -> StepOutput:
        """One token per sample from logits [samples, vocab]; row i of `logits` belongs to sample i."""


Forward = Callable[[Ops, StepHandles, tuple[Handle, ...]], Handle]  # (ops, inputs, kv per group) -> logits [samples, vocab]
