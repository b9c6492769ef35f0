"""The KV arena as torch sees it: a view of the memory system's bytes, never a copy."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tiercel.types import KVLayout

Int64 = npt.NDArray[np.int64]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Runs:
    """Numbers the runs of `tokens` consecutive tokens of a group's arena [blocks, layers, k or v, kv heads, block_tokens].

    A run's number is `first` (of its block) + `of_layer` + `of_heads`.
    """

    layout: KVLayout
    tokens: int  # divides layout.block_tokens

    @property
    def per_segment(self) -> int:
        return self.layout.block_tokens // self.tokens

    def first(self, blocks: Int64, offsets: Int64) -> Int64:
        """For the first layer's keys, first head: the run that starts `offsets` tokens into each of `blocks`."""
        segments = len(self.layout.layers) * 2 * self.layout.num_kv_heads
        return blocks * (segments * self.per_segment) + offsets // self.tokens

    def of_layer(self, layer: int) -> int:
        return self.layout.layers.index(layer) * 2 * self.layout.num_kv_heads * self.per_segment

    def of_heads(self) -> Int64:
        """[k or v, kv heads]."""
        heads = self.layout.num_kv_heads
        return np.arange(2 * heads, dtype=np.int64).reshape(2, heads) * self.per_segment


class KVArena:
    """A group's blocks as a matrix of token runs."""

    def __init__(self, arena: npt.NDArray[np.uint8], layout: KVLayout) -> None:
        self.layout = layout
        self._values = torch.from_numpy(arena).view(_DTYPES[layout.format])

    def gather(self, runs: Tensor, tokens: int, out: Tensor) -> None:
        """Reads some runs into float32 `out` [runs, tokens * head_dim]."""
        matrix = self._runs(tokens)
        if matrix.dtype is out.dtype:
            torch.index_select(matrix, 0, runs, out=out)
        else:
            out.copy_(matrix.index_select(0, runs))

    def write(self, kind: Literal["k", "v"], x: Tensor, layer: int, slots: Tensor) -> None:
        """Stores x [rows, kv_heads * head_dim]; slots: [rows * kv_heads], the runs of one token in the first layer's keys."""
        one = Runs(self.layout, 1)
        offset = one.of_layer(layer) + int(one.of_heads()[("k", "v").index(kind), 0])
        self._runs(1).index_copy_(0, slots + offset, x.reshape(-1, self.layout.head_dim).to(self._values.dtype))

    def copy_blocks(self, pairs: npt.NDArray[np.int32]) -> None:
        """pairs: [n, 2] (source, destination) block ids; all sources are read before anything is written."""
        blocks = self._values.view(-1, self.layout.block_bytes // self._values.element_size())
        source, destination = torch.from_numpy(pairs.astype(np.int64)).unbind(1)
        blocks.index_copy_(0, destination, blocks.index_select(0, source))

    def _runs(self, tokens: int) -> Tensor:
        return self._values.view(-1, tokens * self.layout.head_dim)
