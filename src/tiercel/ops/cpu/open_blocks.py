"""Keys and values of contexts' last blocks as they were before they were stored.

In block-wise formats a query reads the 64 positions of its own block raw and every earlier block as it is stored. So a block
that is not full yet is kept twice: as stored, in the arena, and raw, here. Its raw copy goes once it is full, for the next
query has a block of its own. Own blocks that begin and end within one step need no place beyond it: they share a scratch area.
"""

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import address, aligned
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVLayout

Int32 = npt.NDArray[np.int32]
_BFLOAT16_BYTES = 2
_FIRST = 16  # places to begin with


class OpenBlocks:
    """Places for raw blocks of one KV group: bf16 [layers][k or v][kv heads][64][head_dim] each.

    A block is known by the arena slot of its first token. A context that ends early leaves its place behind until its slot is
    used again, and slots of unfinished blocks are the first to be. `memory` moves when places are added; `scratch` too.
    """

    def __init__(self, layout: KVLayout) -> None:
        self.layer_bytes = 2 * layout.num_kv_heads * BLOCK_TOKENS * layout.head_dim * _BFLOAT16_BYTES
        self.block_bytes = len(layout.layers) * self.layer_bytes
        self.memory = aligned(_FIRST * self.block_bytes)
        self.scratch = aligned(self.layer_bytes)
        self._block_tokens = layout.block_tokens
        self._places: dict[int, int] = {}
        self._free = list(range(_FIRST))
        self._full: list[int] = []  # blocks that the last batch has filled
        self._lengths: Int32 | None = None  # of the last batch, by which it is known again
        self._tables: Int32 = np.zeros((0, 2), np.int32)

    def __len__(self) -> int:
        """Blocks that have a place."""
        return len(self._places)

    def enter(self, batch: AttentionBatch) -> Int32:
        """Where the first and the last own block of each request's rows lie, [requests, 2]; a batch may be entered again.

        Its tables are contiguous from position 0, and the rows of a request from its `query_start` to its length. Raises
        KeyError for a request that goes on within a block that is not here.
        """
        if batch.lengths is self._lengths:
            return self._tables
        for block in self._full:
            self._free.append(self._places.pop(block))
        self._full = []
        counts = np.diff(batch.query_start)
        tables = np.zeros((len(counts), 2), np.int32)
        for request, (length, count) in enumerate(zip(batch.lengths.tolist(), counts.tolist(), strict=True)):
            if not count:
                continue
            table, first, last = batch.block_tables[request], (length - count) // BLOCK_TOKENS, (length - 1) // BLOCK_TOKENS
            begins = self._block(table, first)
            tables[request] = self._take(begins) if (length - count) % BLOCK_TOKENS == 0 else self._places[begins]
            ends = begins if last == first else self._block(table, last)
            if last != first:
                tables[request, 1] = self._take(ends)
                self._full.append(begins)
            if length % BLOCK_TOKENS == 0:
                self._full.append(ends)
        if len(self.scratch) < (middle := -(-int(batch.query_start[-1]) // BLOCK_TOKENS) * self.layer_bytes):
            self.scratch = aligned(middle)
        self._lengths, self._tables = batch.lengths, tables
        return tables

    def copy(self, pairs: Int32) -> None:
        """pairs: [n, 2] (source, destination) ids of arena blocks that are copied; their raw copies follow."""
        places: dict[int, int] = {}
        for source, destination in pairs.tolist():
            for offset in range(0, self._block_tokens, BLOCK_TOKENS):
                place = self._places.get(source * self._block_tokens + offset)
                if place is not None:
                    places[destination * self._block_tokens + offset] = place
        taken = [self._take(block) for block in places]
        blocks = self.memory.reshape(-1, self.block_bytes)
        blocks[taken] = blocks[list(places.values())]

    def _block(self, table: Int32, number: int) -> int:
        entry, offset = divmod(number * BLOCK_TOKENS, self._block_tokens)
        return int(table[entry]) * self._block_tokens + offset

    def _take(self, block: int) -> int:
        """The block's place, a new one if it has none."""
        place = self._places.get(block)
        if place is None:
            if not self._free:
                self._grow()
            place = self._places[block] = self._free.pop()
        return place

    def _grow(self) -> None:
        old, count = self.memory, len(self._places)
        self.memory = aligned(2 * count * self.block_bytes)
        self.memory[: len(old)] = old
        self._free += range(count, 2 * count)


def open_fields(blocks: OpenBlocks, batch: AttentionBatch) -> dict[str, int]:
    """What a group's struct says of them. The addresses hold until the next batch."""
    tables = blocks.enter(batch)
    return {
        "open": address(blocks.memory),
        "open_block_bytes": blocks.block_bytes,
        "open_blocks": address(tables),
        "open_scratch": address(blocks.scratch),
    }
