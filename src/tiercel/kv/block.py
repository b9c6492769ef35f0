"""A block is content; a copy is where that content lies."""

from dataclasses import dataclass

import msgspec

from tiercel.types import BlockHash, KVFormat


class BlockContent(msgspec.Struct, frozen=True):
    """What a block's hash stands for. tokens: little-endian int32; first_position: of the first of them in its sequence."""

    parent: BlockHash
    tokens: bytes
    first_position: int


@dataclass(slots=True)
class Copy:
    """One place that holds a block's bytes. slot: index within the tier."""

    tier: str
    slot: int
    format: KVFormat


@dataclass(slots=True, eq=False)
class KVBlock:
    """The keys and values of up to BLOCK_TOKENS consecutive tokens, in all layers of one group.

    block_hash, content: set when the block is full and sealed, from then on its bytes never change. ref_count: block tables and
    loads that hold it. A block without references keeps its device copy until the slot is needed. pins: writers that read its
    bytes; a pinned slot is not given away. touches: how often it was met, computed or reused. stored: a store below holds it.
    """

    device: Copy
    ref_count: int = 0
    block_hash: BlockHash | None = None
    content: BlockContent | None = None
    pins: int = 0
    touches: int = 0
    stored: bool = False
