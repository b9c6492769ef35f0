"""A block is content; a copy is where that content lies."""

from dataclasses import dataclass

from tiercel.types import BlockHash, KVFormat


@dataclass(slots=True)
class Copy:
    """One place that holds a block's bytes. slot: index within the tier."""

    tier: str
    slot: int
    format: KVFormat


@dataclass(slots=True, eq=False)
class KVBlock:
    """The keys and values of up to BLOCK_TOKENS consecutive tokens, in all layers of one group.

    block_hash, parent: set when the block is full and sealed, from then on its bytes never change. ref_count: block tables that
    hold it. A block without references keeps its device copy until the slot is needed.
    """

    device: Copy
    ref_count: int = 0
    block_hash: BlockHash | None = None
    parent: BlockHash | None = None
