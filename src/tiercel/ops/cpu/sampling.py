"""From logits to tokens: rows without penalties, bias and log probabilities in the library, all others as they are defined."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import SAMPLING, Pool, address
from tiercel.ops.sampling import sample as sample_by_definition
from tiercel.types import SamplingBatch, StepOutput

Float32 = npt.NDArray[np.float32]

_SETTINGS = ("temperature", "top_p", "min_p", "top_k", "seed", "sample_index", "output_position")


def sample(pool: Pool, logits: Float32, sampling: SamplingBatch) -> StepOutput:
    """One token per row of logits [samples, vocab], whose channels are contiguous; see `tiercel.ops.sampling`."""
    others = _others(sampling)
    if len(others) == len(logits):
        return sample_by_definition(logits, sampling)
    output = _sample_natively(pool, logits, sampling)
    return _merged(output, others, sample_by_definition(logits[others], _some(sampling, others))) if others else output


def _others(sampling: SamplingBatch) -> list[int]:
    """The samples that the library does not know how to draw."""
    wants = zip(
        sampling.num_logprobs.tolist(),
        sampling.prompt_tokens,
        sampling.output_tokens,
        sampling.logit_bias or [None] * len(sampling.rows),
        strict=True,
    )
    return [i for i, (logprobs, *more) in enumerate(wants) if logprobs >= 0 or any(x is not None for x in more)]


def _sample_natively(pool: Pool, logits: Float32, sampling: SamplingBatch) -> StepOutput:
    samples, vocab = logits.shape
    settings = np.zeros(samples, SAMPLING)
    for name in _SETTINGS:
        settings[name] = getattr(sampling, name)
    mask = sampling.logits_mask
    if mask is not None:
        mask = np.ascontiguousarray(mask)
        settings["mask"] = address(mask) + np.arange(samples, dtype=np.uint64) * np.uint64(mask.strides[0])
    token_ids = np.empty(samples, np.int32)
    pool.library.tiercel_sample(
        pool.handle, address(logits), logits.strides[0] // 4, vocab, samples, address(settings), address(token_ids)
    )
    return StepOutput(
        token_ids,
        logprobs=np.full(samples, np.nan, np.float32),
        top_ids=np.empty((samples, 0), np.int32),
        top_logprobs=np.empty((samples, 0), np.float32),
    )


def _some(sampling: SamplingBatch, samples: list[int]) -> SamplingBatch:
    """Some samples of a batch, as a batch."""

    def cut(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value[samples]
        return tuple(value[i] for i in samples) if isinstance(value, tuple) else value

    return SamplingBatch(**{field.name: cut(getattr(sampling, field.name)) for field in dataclasses.fields(sampling)})


def _merged(output: StepOutput, samples: list[int], part: StepOutput) -> StepOutput:
    """`output` with some samples taken from `part`."""
    width = part.top_ids.shape[1]
    top_ids = np.full((len(output.token_ids), width), -1, np.int32)
    top_logprobs = np.full((len(output.token_ids), width), np.nan, np.float32)
    output.token_ids[samples], output.logprobs[samples] = part.token_ids, part.logprobs
    top_ids[samples], top_logprobs[samples] = part.top_ids, part.top_logprobs
    return StepOutput(output.token_ids, output.logprobs, top_ids, top_logprobs)
