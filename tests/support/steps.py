"""Steps for tests that call a back end or a model directly: paged contexts laid out at random, without scheduler or pool."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tiercel.types import AttentionBatch, KVGroup, SamplingBatch, StepInput


def greedy(rows: Sequence[int]) -> SamplingBatch:
    """Takes the most likely token of each row."""
    return SamplingBatch.greedy(np.array(rows, np.int32))


class PagedContexts:
    """The KV of some requests, in blocks taken at random. All memory starts as nan, which shows whoever reads too much.

    arenas: uint8, one per group. Blocks behind a group's window are given back, as the engine does.
    """

    def __init__(self, groups: Sequence[KVGroup], num_blocks: int = 64, seed: int = 0) -> None:
        self.groups = groups
        self.arenas = [np.full(num_blocks * group.layout.block_bytes, 0xFF, np.uint8) for group in groups]
        rng = np.random.default_rng(seed)
        self._free = [list(rng.permutation(num_blocks)) for _ in groups]
        self._tables: list[dict[str, list[int]]] = [{} for _ in groups]
        self.lengths: dict[str, int] = {}

    def step(self, chunks: Mapping[str, Sequence[int]], sample: Literal["last", "all", "none"] = "last") -> StepInput:
        """Appends tokens to requests; new names are new requests. sample: which rows of each request."""
        counts = [len(tokens) for tokens in chunks.values()]
        starts = [self.lengths.get(name, 0) for name in chunks]
        positions = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, counts, strict=True)])
        ends = np.cumsum(counts)
        self.lengths |= {name: start + count for name, start, count in zip(chunks, starts, counts, strict=True)}
        return StepInput(
            token_ids=np.concatenate([np.array(tokens) for tokens in chunks.values()]).astype(np.int32),
            positions=positions.astype(np.int32),
            groups=tuple(
                self._batch(group, list(chunks), starts, np.concatenate([[0], ends]), positions)
                for group in range(len(self.groups))
            ),
            copies=tuple(np.empty((0, 2), np.int32) for _ in self.groups),
            sampling=greedy({"last": list(ends - 1), "all": list(range(ends[-1])), "none": []}[sample]),
        )

    def _batch(
        self, group: int, names: Sequence[str], starts: Sequence[int], query_start: np.ndarray, positions: np.ndarray
    ) -> AttentionBatch:
        size = self.groups[group].layout.block_tokens
        tables = [self._table(group, name, start) for name, start in zip(names, starts, strict=True)]
        block_tables = np.full((len(tables), max(map(len, tables))), -1, np.int32)
        for row, table in zip(block_tables, tables, strict=True):
            row[: len(table)] = table
        request = np.repeat(np.arange(len(names)), np.diff(query_start))
        return AttentionBatch(
            query_start=query_start.astype(np.int32),
            q_positions=positions.astype(np.int32),
            block_tables=block_tables,
            lengths=np.array([self.lengths[name] for name in names], np.int32),
            slot_mapping=block_tables[request, positions // size].astype(np.int64) * size + positions % size,
        )

    def _table(self, group: int, name: str, start: int) -> list[int]:
        """A request's blocks, enough for its length, without those that no row from `start` on can see."""
        layout, window = self.groups[group].layout, self.groups[group].window
        table = self._tables[group].setdefault(name, [])
        while len(table) * layout.block_tokens < self.lengths[name]:
            table.append(self._free[group].pop())
        hidden = 0 if window is None else max(start - window + 1, 0) // layout.block_tokens
        for entry in range(hidden):
            if table[entry] >= 0:
                self.arenas[group].reshape(-1, layout.block_bytes)[table[entry]] = 0xFF
                self._free[group].insert(0, table[entry])
                table[entry] = -1
        return table
