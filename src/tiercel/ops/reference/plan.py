"""What attention has to do in a step: which rows meet which keys. Made once for a step, used by every layer.

Keys come in tiles of 256 positions that start at multiples of 256, whatever the chunk or the batch. Rows come in tiles too; the
query heads that share a kv head stand in a row tile as further rows. Where requests have few rows, those that ask for equal
amounts of work form one bundle, and all their heads one row tile, so that their products are one batched product. The keys of
short contexts are cut off early, as hidden keys at the end change nothing.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tiercel.ops.reference.arena import Runs
from tiercel.types import AttentionBatch, KVLayout

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TILE = 256  # keys whose products are summed in one piece
_SHORT = 64  # contexts within one tile are padded to a multiple of this
_MULTIPLE = 16  # rows of a row tile, padding included: with fewer, products with transposed keys sum in other orders
_FEW_ROWS = 16  # requests with at most so many rows share bundles
_MOST_ROWS = 256  # of a request in one row tile
_SCORES = 1 << 22  # of a row tile, unless it has 16 rows: 16 MiB
_GATHERED = 1 << 21  # numbers that a bundle of several requests gathers: 8 MiB, so that they are read from the cache
_NO_WINDOW = 1 << 62


class Reach(NamedTuple):
    """Which keys a row sees, besides those after it. Positions below `sinks` are seen through any window."""

    window: int | None
    sinks: int


class Patch(NamedTuple):
    """Entries of one key tile that must not count. mask: bool, True = does not count; broadcast over kv heads."""

    tile: int
    mask: Tensor


@dataclass(frozen=True, eq=False)
class RowTile:
    """Rows of a bundle that are computed together. M counts (row, query head of a kv head), padded by repeating the last.

    kv_heads: all of the bundle's [requests * kv_heads], or one kv head of a single request
    rows: [requests, M], rows of the step
    vectors: [kv_heads * M], which of the step's [rows * heads] query vectors
    first, last: the key tiles of the bundle that are seen, last excluded
    hidden: [requests, 1, M, TILE] per key tile, counted from `first`
    blind: whether some row sees no key at all
    """

    kv_heads: slice
    rows: Tensor
    vectors: Tensor
    first: int
    last: int
    hidden: tuple[Patch, ...]
    blind: bool


@dataclass(frozen=True, eq=False)
class Bundle:
    """Requests with equally many rows and key tiles.

    runs: [k or v, requests, kv_heads, runs] flattened: token runs to gather, numbered as in the group's first layer
    positions: [requests, keys], of the gathered keys
    holes: [requests, 1, TILE, 1] per key tile: positions where no key was written
    """

    requests: int
    runs: Tensor
    positions: Tensor
    holes: tuple[Patch, ...]
    row_tiles: tuple[RowTile, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """run_tokens: length of the gathered runs."""

    run_tokens: int
    bundles: tuple[Bundle, ...]


def make_plan(batch: AttentionBatch, layout: KVLayout, heads: int, reach: Reach) -> Plan:
    """The plan of a step for the layers of one group. heads: query heads."""
    return _Planner(batch, layout, heads, reach).plan()


class _Planner:
    def __init__(self, batch: AttentionBatch, layout: KVLayout, heads: int, reach: Reach) -> None:
        self._layout, self._heads, self._reach = layout, heads, reach
        self._starts = batch.query_start[:-1].astype(np.int64)
        self._counts = np.diff(batch.query_start)
        self._positions = batch.q_positions.astype(np.int64)
        self._lengths = batch.lengths.astype(np.int64)
        self._runs = Runs(layout, _run_tokens(batch, layout))
        self._run_table = _run_table(batch, self._runs)

    def plan(self) -> Plan:
        bundles = (self._bundle(requests, tiles) for requests, tiles in self._members())
        return Plan(self._runs.tokens, tuple(bundles))

    def _members(self) -> Iterator[tuple[Int64, Int64]]:
        """The requests [n] of each bundle and the positions of their keys [n, keys]."""
        alike: dict[tuple[int, int, int], list[tuple[int, Int64]]] = defaultdict(list)
        for request in np.flatnonzero(self._counts).tolist():
            count, keys = int(self._counts[request]), self._keys(request)
            alike[count, len(keys), -1 if count <= _FEW_ROWS else request].append((request, keys))
        for (_, num_keys, _), members in alike.items():
            most = max(_GATHERED // (2 * self._layout.num_kv_heads * num_keys * self._layout.head_dim), 1)
            for start in range(0, len(members), most):
                some = members[start : start + most]
                yield np.array([request for request, _ in some]), np.stack([keys for _, keys in some])

    def _keys(self, request: int) -> Int64:
        """Positions of the keys that a row of the request may see, in whole tiles, or the beginning of one."""
        positions = self._positions[self._starts[request] :][: self._counts[request]]
        end = min(int(positions.max()) + 1, int(self._lengths[request]))
        window, sinks = self._reach
        first = 0 if window is None else max(int(positions.min()) - window + 1, 0) // TILE
        tiles = np.array([*range(min(_parts(sinks, TILE), first)), *range(first, _parts(end, TILE))])
        keys = (tiles[:, None] * TILE + np.arange(TILE)).reshape(-1)
        return keys if len(tiles) > 1 else keys[: _round_up(end - int(keys[0]), max(_SHORT, self._runs.tokens))]

    def _bundle(self, requests: Int64, keys: Int64) -> Bundle:
        length = self._runs.tokens
        runs = self._run_table[requests[:, None], keys[:, ::length] // length]
        absent = np.repeat(runs < 0, length, axis=1) | (keys >= self._lengths[requests, None])
        gathered = self._runs.of_heads()[:, None, :, None] + np.maximum(runs, 0)[:, None]
        return Bundle(
            requests=len(requests),
            runs=torch.from_numpy(gathered.reshape(-1)),
            positions=torch.from_numpy(keys),
            holes=tuple(
                Patch(tile, torch.from_numpy(absent[:, None, cut(tile), None]))
                for tile in range(_parts(keys.shape[1], TILE))
                if absent[:, cut(tile)].any()
            ),
            row_tiles=tuple(self._row_tiles(requests, keys, absent)),
        )

    def _row_tiles(self, requests: Int64, keys: Int64, absent: Bool) -> Iterator[RowTile]:
        """Cuts the requests' rows into tiles, smaller ones where the context is long; many rows by kv head too."""
        starts, count, kv_heads = self._starts[requests], int(self._counts[requests[0]]), self._layout.num_kv_heads
        parts = [slice(None)] if count <= _FEW_ROWS else [slice(head, head + 1) for head in range(kv_heads)]
        size = _MOST_ROWS
        while size > _MULTIPLE and size * keys.size * self._heads // len(parts) > _SCORES:
            size //= 2
        sharing = self._heads // kv_heads
        for start in range(0, count, size):
            last = min(size, count - start) * sharing - 1
            entries = np.minimum(np.arange(_round_up(last + 1, _MULTIPLE)), last)
            rows = (starts + start)[:, None] + entries // sharing  # [n, M]
            heads = np.arange(kv_heads)[:, None] * sharing + entries % sharing  # [kv_heads, M]
            sight = _sight(self._positions[rows], keys, absent, self._reach)
            for part in parts:
                vectors = rows[:, None] * self._heads + heads[part]
                yield RowTile(part, torch.from_numpy(rows), torch.from_numpy(vectors.reshape(-1)), *sight)


def _sight(rows: Int64, keys: Int64, absent: Bool, reach: Reach) -> tuple[int, int, tuple[Patch, ...], bool]:
    """`first`, `last`, `hidden` and `blind` of a row tile, for rows at positions [n, M] and keys at positions [n, keys]."""
    hidden = _hidden(rows, keys, absent, reach)
    seen = [tile for tile, mask in enumerate(hidden) if mask is None or not mask.all()] or [0]
    first, last = seen[0], seen[-1] + 1
    patches = [
        Patch(tile - first, torch.from_numpy(mask[:, None]))
        for tile, mask in enumerate(hidden)
        if first <= tile < last and mask is not None
    ]
    sees_some_of = [np.True_ if mask is None else ~mask.all(axis=2) for mask in hidden]
    return first, last, tuple(patches), not reduce(np.logical_or, sees_some_of).all()


def _hidden(rows: Int64, keys: Int64, absent: Bool, reach: Reach) -> list[Bool | None]:
    """Per key tile: which keys the rows at positions [n, M] do not see, [n, M or 1, TILE]; None = all are seen."""
    window = reach.window if reach.window is not None else _NO_WINDOW
    masks: list[Bool | None] = []
    for tile in range(_parts(keys.shape[1], TILE)):
        at = keys[:, None, cut(tile)]
        nearest, farthest = rows.min(axis=1) - at[:, 0, -1], rows.max(axis=1) - at[:, 0, 0]
        inside = (farthest < window) | (at[:, 0, -1] < reach.sinks)
        outside = (nearest >= window) & (at[:, 0, 0] >= reach.sinks)
        if (farthest < 0).all() or outside.all():
            masks.append(np.ones((len(rows), 1, at.shape[2]), np.bool_))
        elif (nearest >= 0).all() and inside.all() and not absent[:, cut(tile)].any():
            masks.append(None)
        else:
            distance = rows[:, :, None] - at
            masks.append((distance < 0) | ((distance >= window) & (at >= reach.sinks)) | absent[:, None, cut(tile)])
    return masks


def cut(tile: int, end: int | None = None) -> slice:
    """Where a key tile lies, or those up to `end`."""
    return slice(tile * TILE, (tile + 1 if end is None else end) * TILE)


def _parts(count: int, size: int) -> int:
    return -(-count // size)


def _round_up(count: int, multiple: int) -> int:
    return _parts(count, multiple) * multiple


def _run_tokens(batch: AttentionBatch, layout: KVLayout) -> int:
    """The longest run that divides tiles and blocks, and at whose multiples all blocks start."""
    length = np.gcd(TILE, layout.block_tokens)
    if batch.block_positions is not None:
        length = np.gcd.reduce(batch.block_positions[batch.block_tables >= 0], initial=length)
    return int(length)


def _run_table(batch: AttentionBatch, runs: Runs) -> Int64:
    """[requests, runs by position], numbered as in the group's first layer; -1 = absent."""
    width = _round_up(int(batch.lengths.max(initial=1)), TILE) // runs.tokens
    offsets = np.arange(0, runs.layout.block_tokens, runs.tokens)
    blocks = batch.block_tables.astype(np.int64)[:, :, None]
    numbers = np.where(blocks < 0, -1, runs.first(blocks, offsets))  # [requests, entries, runs of a block]
    if batch.block_positions is None:
        numbers = numbers.reshape(len(blocks), -1)[:, :width]
        return np.pad(numbers, ((0, 0), (0, width - numbers.shape[1])), constant_values=-1)
    table = np.full((len(blocks), width), -1, np.int64)
    places = batch.block_positions[:, :, None] // runs.tokens + np.arange(len(offsets))
    request, entry, run = np.nonzero((numbers >= 0) & (places < width))
    table[request, places[request, entry, run]] = numbers[request, entry, run]
    return table
