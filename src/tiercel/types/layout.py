"""Where the bytes of a KV block lie."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

BLOCK_TOKENS = 64  # the unit that is hashed, cached and stored: a constant of the format

KVFormat = Literal["float32", "bfloat16"]
_BYTES: dict[KVFormat, int] = {"float32": 4, "bfloat16": 2}


class Segment(NamedTuple):
    """One run of bytes inside a block."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class KVLayout:
    """A block is one run of bytes made of segments, one per (layer, k or v, kv head), each [block_tokens, head_dim].

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
        return len(self.layers) * 2 * self.num_kv_heads * self.head_dim * _BYTES[self.format]

    @property
    def block_bytes(self) -> int:
        return self.token_bytes * self.block_tokens

    def segment(self, layer: int, kind: Literal["k", "v"], head: int) -> Segment:
        """The run that holds one head's keys or values of one layer."""
        size = self.block_tokens * self.head_dim * _BYTES[self.format]
        index = (self.layers.index(layer) * 2 + (kind == "v")) * self.num_kv_heads + head
        return Segment(index * size, size)


@dataclass(frozen=True)
class KVGroup:
    """Layers that keep their KV by one rule. window: a row sees keys at distance < window; None = all before it."""

    layout: KVLayout
    window: int | None = None
