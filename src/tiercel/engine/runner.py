"""Turns a scheduled step into arrays, has the back end compute it, and returns what was sampled."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tiercel.engine.request import Request
from tiercel.engine.scheduler import SchedulerOutput
from tiercel.kv import KVCacheManager
from tiercel.models.executor import Executor
from tiercel.types import BLOCK_TOKENS, AttentionBatch, SamplingBatch, StepInput, StepOutput

Int32 = npt.NDArray[np.int32]

_NO_COPIES: Int32 = np.empty((0, 2), np.int32)


class ModelRunner:
    """`prepare` and `execute` are one step's two halves."""

    def __init__(self, executor: Executor, manager: KVCacheManager) -> None:
        self.executor = executor
        self._manager = manager
        self._samples: list[Request] = []  # of the last step, and their batch: while they stay the same, so do their settings
        self._sampling = sampling_batch([], [])

    def prepare(self, scheduled: SchedulerOutput) -> tuple[StepInput, list[Request]]:
        """The step's arrays, and whom each sample belongs to.

        A request samples once all its known tokens are computed; a first token is sampled for all its siblings at once.
        """
        token_ids: list[int] = []
        positions: list[int] = []
        starts, lengths = [0], []
        samples: list[Request] = []
        rows: list[int] = []
        for request, count in scheduled.num_tokens.items():
            first, last = request.num_computed_tokens, request.num_computed_tokens + count
            token_ids += request.token_ids[first:last]
            positions.extend(range(first, last))
            starts.append(len(token_ids))
            lengths.append(last)
            if last == request.num_tokens:
                drawn = [request, *request.siblings]
                samples += drawn
                rows += [len(token_ids) - 1] * len(drawn)
        self._sampling = sampling_batch(samples, rows, self._sampling if samples == self._samples else None)
        self._samples = samples
        q_positions = np.array(positions, np.int32)
        query_start, ends = np.array(starts, np.int32), np.array(lengths, np.int32)
        step = StepInput(
            token_ids=np.array(token_ids, np.int32),
            positions=q_positions,
            groups=tuple(
                self._attention_batch(group, scheduled, query_start, q_positions, ends)
                for group in range(len(self._manager.groups))
            ),
            copies=tuple(np.array(pairs, np.int32) if pairs else _NO_COPIES for pairs in self._manager.take_copies()),
            sampling=self._sampling,
        )
        return step, samples

    def execute(self, step: StepInput) -> StepOutput:
        return self.executor.execute(step)

    def _attention_batch(
        self, group: int, scheduled: SchedulerOutput, query_start: Int32, q_positions: Int32, lengths: Int32
    ) -> AttentionBatch:
        tables = [self._manager.block_table(request.key, group) for request in scheduled.num_tokens]
        block_tables = np.full((len(tables), max(map(len, tables))), -1, np.int32)
        slots: list[int] = []
        for row, table, (request, count) in zip(block_tables, tables, scheduled.num_tokens.items(), strict=True):
            row[: len(table)] = table
            slots += _slots(table, request.num_computed_tokens, request.num_computed_tokens + count)
        return AttentionBatch(
            query_start=query_start,
            q_positions=q_positions,
            block_tables=block_tables,
            lengths=lengths,
            slot_mapping=np.array(slots, np.int64),
        )


def sampling_batch(samples: Sequence[Request], rows: Sequence[int], earlier: SamplingBatch | None = None) -> SamplingBatch:
    """The sampling settings of each sample, as arrays. earlier: a batch of the same samples, whose settings are taken over."""
    masks = [request.matcher.mask() if request.matcher is not None else None for request in samples]
    biases = [_biases(request) for request in samples]
    penalised = [_is_penalised(request) for request in samples]
    return replace(
        earlier or _settings(samples),
        rows=np.array(rows, np.int32),
        output_position=np.array([r.num_output_tokens for r in samples], np.int32),
        output_tokens=tuple(
            np.array(r.token_ids[r.num_prompt_tokens :], np.int32) if on else None
            for r, on in zip(samples, penalised, strict=True)
        ),
        logits_mask=_join_masks(masks),
        logit_bias=tuple(biases) if any(b is not None for b in biases) else None,
    )


def _settings(samples: Sequence[Request]) -> SamplingBatch:
    """What stays as it is from step to step; the rest is left open."""
    params = [r.params for r in samples]
    nothing = np.zeros(len(samples), np.int32)
    return SamplingBatch(
        rows=nothing,
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float32),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float32),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float32),
        seed=np.array([r.seed for r in samples], np.uint64),
        sample_index=np.array([r.index for r in samples], np.int32),
        output_position=nothing,
        num_logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
        prompt_tokens=tuple(
            np.array(r.token_ids[: r.num_prompt_tokens], np.int32) if _is_penalised(r) else None for r in samples
        ),
        output_tokens=(None,) * len(samples),
    )


def _slots(table: Sequence[int], first: int, last: int) -> list[int]:
    """Where the tokens first .. last - 1 of a request go: block id * BLOCK_TOKENS + offset."""
    slots: list[int] = []
    while first < last:
        block, offset = divmod(first, BLOCK_TOKENS)
        count = min(BLOCK_TOKENS - offset, last - first)
        start = table[block] * BLOCK_TOKENS + offset
        slots.extend(range(start, start + count))
        first += count
    return slots


def _is_penalised(request: Request) -> bool:
    p = request.params
    return p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0


def _biases(request: Request) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
    """The user's biases, and minus infinity for whatever must not end the output yet."""
    if request.params.logit_bias is None and request.num_output_tokens >= request.params.min_tokens:
        return None
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
