"""Where the bytes of a KV block lie."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

BLOCK_TOKENS = 64  # the unit that is hashed, cached and stored: a constant of the format

# int8: one scale per token and head. int4: one per 32 values; a query reads the block of its own position as it was before it
# was stored. Both keep values rotated by a Hadamard matrix, so that none stands out; the plain one is there to compare with.
KVFormat = Literal["float32", "bfloat16", "int8", "int4", "int4-plain"]
INT4_RUN = 32  # values that share a scale
_VALUE_BITS: dict[KVFormat, int] = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4, "int4-plain": 4}


class Segment(NamedTuple):
    """One run of bytes inside a block."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class KVLayout:
    """A block is one run of bytes made of segments, one per (layer, k or v, kv head), each [block_tokens, head_dim].

    Behind the values of a segment stand its scales: float32 [block_tokens] of int8, fp16 [block_tokens, head_dim / 32] of int4.

    `layers` are model layer numbers; their place in the tuple is their place in the block.
    """

    layers: tuple[int, ...]
    num_kv_heads: int
    head_dim: int
    format: KVFormat = "float32"
    block_tokens: int = BLOCK_TOKENS

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes over all layers of the group."""
        return len(self.layers) * 2 * self.num_kv_heads * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's keys or values of one layer and head, with their scales."""
        scales = {"int8": 4, "int4": 2 * (self.head_dim // INT4_RUN), "int4-plain": 2 * (self.head_dim // INT4_RUN)}
        return self.head_dim * _VALUE_BITS[self.format] // 8 + scales.get(self.format, 0)

    @property
    def block_bytes(self) -> int:
        return self.token_bytes * self.block_tokens

    def segment(self, layer: int, kind: Literal["k", "v"], head: int) -> Segment:
        """The run that holds one head's keys or values of one layer."""
        size = self.block_tokens * self.row_bytes
        index = (self.layers.index(layer) * 2 + (kind == "v")) * self.num_kv_heads + head
        return Segment(index * size, size)


@dataclass(frozen=True)
class KVGroup:
    """Layers that keep their KV by one rule. window: a row sees keys at distance < window; None = all before it."""

    layout: KVLayout
    window: int | None = None
