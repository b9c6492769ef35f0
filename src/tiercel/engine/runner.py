"""Turns a scheduled step into arrays, has the back end compute it, and returns what was sampled."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from tiercel.engine.request import Request
from tiercel.engine.scheduler import SchedulerOutput
from tiercel.kv import KVCacheManager
from tiercel.models.executor import Executor
from tiercel.types import BLOCK_TOKENS, AttentionBatch, SamplingBatch, StepInput, StepOutput


class ModelRunner:
    """`prepare` and `execute` are one step's two halves."""

    def __init__(self, executor: Executor, manager: KVCacheManager) -> None:
        self._executor = executor
        self._manager = manager

    def prepare(self, scheduled: SchedulerOutput) -> tuple[StepInput, list[Request]]:
        """The step's arrays, and whom each sample belongs to.

        A request samples once all its known tokens are computed; a first token is sampled for all its siblings at once.
        """
        requests = list(scheduled.num_tokens)
        counts = list(scheduled.num_tokens.values())
        starts = [0, *accumulate(counts)]
        token_ids = [t for r, n in zip(requests, counts, strict=True) for t in r.token_ids[r.num_computed_tokens :][:n]]
        positions = np.concatenate(
            [np.arange(r.num_computed_tokens, r.num_computed_tokens + n) for r, n in zip(requests, counts, strict=True)]
        )
        samples: list[Request] = []
        rows: list[int] = []
        for request, count, end in zip(requests, counts, starts[1:], strict=True):
            if count == request.num_missing_tokens:
                drawn = [request, *request.siblings]
                samples += drawn
                rows += [end - 1] * len(drawn)
        query_start = np.array(starts, np.int32)
        lengths = np.array([r.num_computed_tokens + n for r, n in zip(requests, counts, strict=True)], np.int32)
        step = StepInput(
            token_ids=np.array(token_ids, np.int32),
            positions=positions.astype(np.int32),
            groups=tuple(
                self._attention_batch(group, requests, query_start, positions, lengths)
                for group in range(len(self._manager.groups))
            ),
            copies=tuple(np.array(pairs, np.int32).reshape(-1, 2) for pairs in self._manager.take_copies()),
            sampling=sampling_batch(samples, rows),
        )
        return step, samples

    def execute(self, step: StepInput) -> StepOutput:
        return self._executor.execute(step)

    def _attention_batch(
        self,
        group: int,
        requests: Sequence[Request],
        query_start: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int32],
    ) -> AttentionBatch:
        tables = [self._manager.block_table(request.key, group) for request in requests]
        block_tables = np.full((len(tables), max(map(len, tables))), -1, np.int32)
        for row, table in zip(block_tables, tables, strict=True):
            row[: len(table)] = table
        request_of_row = np.repeat(np.arange(len(requests)), np.diff(query_start))
        blocks = block_tables[request_of_row, positions // BLOCK_TOKENS].astype(np.int64)
        return AttentionBatch(
            query_start=query_start,
            q_positions=positions.astype(np.int32),
            block_tables=block_tables,
            lengths=lengths,
            slot_mapping=blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS,
        )


def sampling_batch(samples: Sequence[Request], rows: Sequence[int]) -> SamplingBatch:
    """The sampling settings of each sample, as arrays."""
    params = [r.params for r in samples]
    penalised = [p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0 for p in params]
    biases = [_biases(request) for request in samples]
    masks = [request.matcher.mask() if request.matcher is not None else None for request in samples]
    return SamplingBatch(
        rows=np.array(rows, np.int32),
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float32),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float32),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float32),
        seed=np.array([r.seed for r in samples], np.uint64),
        sample_index=np.array([r.index for r in samples], np.int32),
        output_position=np.array([r.num_output_tokens for r in samples], np.int32),
        num_logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
        prompt_tokens=tuple(
            np.array(r.token_ids[: r.num_prompt_tokens], np.int32) if on else None
            for r, on in zip(samples, penalised, strict=True)
        ),
        output_tokens=tuple(
            np.array(r.token_ids[r.num_prompt_tokens :], np.int32) if on else None
            for r, on in zip(samples, penalised, strict=True)
        ),
        logits_mask=_join_masks(masks),
        logit_bias=tuple(biases) if any(b is not None for b in biases) else None,
    )


def _biases(request: Request) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
    """The user's biases, and minus infinity for whatever must not end the output yet."""
    biases = dict(request.params.logit_bias or {})
    if request.num_output_tokens < request.params.min_tokens:
        biases |= dict.fromkeys(request.stop_token_ids, -np.inf)
    if not biases:
        return None
    return np.array(list(biases), np.int32), np.array(list(biases.values()), np.float32)


def _join_masks(masks: Sequence[npt.NDArray[np.uint32] | None]) -> npt.NDArray[np.uint32] | None:
    """Masks of all samples as one array; samples without one allow everything."""
    known = [mask for mask in masks if mask is not None]
    if not known:
        return None
    everything = np.full_like(known[0], 0xFFFFFFFF)
    return np.stack([everything if mask is None else mask for mask in masks])
