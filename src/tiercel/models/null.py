"""A model without weights, for scheduler, cache and stores: its next token is a fingerprint of exactly the tokens it can see.

Its KV cache holds token ids, and it reads them back through block tables as a real model reads keys: one wrong block, position
or window anywhere gives other tokens.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tiercel.kv import Arena
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVGroup, KVLayout, SamplingBatch, StepInput, StepOutput

_PRIME = np.uint64(0x9E3779B97F4A7C15)
Values = npt.NDArray[np.uint64]


def null_groups(windows: Sequence[int | None] = (None,)) -> list[KVGroup]:
    """One group of one layer for each entry; a token takes 8 bytes in each."""
    return [KVGroup(KVLayout((layer,), num_kv_heads=1, head_dim=1), window) for layer, window in enumerate(windows)]


class NullExecutor:
    """Keeps the promises of an executor: rows are independent, windows hide, copies happen first, seeds decide."""

    def __init__(self, groups: Sequence[KVGroup], arena: Arena, vocab_size: int) -> None:
        self._windows = [group.window for group in groups]
        self._caches = [_keys(area, group.layout) for area, group in zip(arena.groups, groups, strict=True)]
        self._vocab_size = vocab_size

    def execute(self, step: StepInput) -> StepOutput:
        values = step.token_ids.astype(np.uint64)
        for cache, window, copies, batch in zip(self._caches, self._windows, step.copies, step.groups, strict=True):
            cache[copies[:, 1]] = cache[copies[:, 0]]
            cache[batch.slot_mapping // BLOCK_TOKENS, batch.slot_mapping % BLOCK_TOKENS] = step.token_ids
            values = _mix(values * _PRIME + _fingerprints(cache, batch, window))
        return self._sample(values[step.sampling.rows], step.sampling)

    def _sample(self, values: Values, sampling: SamplingBatch) -> StepOutput:
        """Temperature 0: the fingerprint decides alone; else seed, sample index and position do too."""
        key = sampling.sample_index.astype(np.uint64) * _PRIME + sampling.output_position.astype(np.uint64)
        drawn = np.where(sampling.temperature > 0, _mix(sampling.seed + key), np.uint64(0))
        token_ids = (_mix(values + drawn) % np.uint64(self._vocab_size)).astype(np.int32)
        count = len(token_ids)
        return StepOutput(
            token_ids,
            logprobs=np.full(count, np.nan, np.float32),
            top_ids=np.empty((count, 0), np.int32),
            top_logprobs=np.empty((count, 0), np.float32),
        )


def _keys(area: npt.NDArray[np.uint8], layout: KVLayout) -> npt.NDArray[np.int32]:
    """The key segments of the one layer and head as token ids, [num_blocks, block_tokens]: a view for reading and writing."""
    return area.view(np.int32).reshape(-1, 2, layout.block_tokens)[:, 0]


def _fingerprints(cache: npt.NDArray[np.int32], batch: AttentionBatch, window: int | None) -> Values:
    """[rows]: one number for the set of (position, token id) that each row sees."""
    result = np.empty(len(batch.q_positions), np.uint64)
    for request, table in enumerate(batch.block_tables):
        rows = slice(batch.query_start[request], batch.query_start[request + 1])
        seen = np.where(table[:, None] >= 0, cache[table], -1).reshape(-1)[: batch.lengths[request]]
        terms = _mix(seen.astype(np.uint64) + np.arange(len(seen), dtype=np.uint64) * _PRIME)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        last = batch.q_positions[rows] + 1
        first = np.zeros_like(last) if window is None else np.maximum(last - window, 0)
        result[rows] = sums[last] - sums[first]
    return result


def _mix(x: Values) -> Values:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
