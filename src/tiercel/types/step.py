"""One step of the engine as plain arrays: what the runner hands to a back end and what it gets back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """How the rows of a step meet the KV blocks of one group.

    query_start: [requests + 1], rows of request r are query_start[r] : query_start[r + 1]
    q_positions: [rows], position of each row in its request
    block_tables: [requests, max_blocks], block ids; -1 = absent, its keys are skipped
    lengths: [requests], KV tokens of the request once this step's rows are written
    slot_mapping: [rows], block id * block_tokens + offset where a row's key and value go
    block_positions: [requests, max_blocks], position of the first token of each table entry; None = contiguous from 0
    """

    query_start: Int32
    q_positions: Int32
    block_tables: Int32
    lengths: Int32
    slot_mapping: Int64
    block_positions: Int32 | None = None


@dataclass(frozen=True, eq=False)
class SamplingBatch:
    """How each sampled row becomes a token. One entry per sample; the same row may be sampled several times (n > 1).

    rows: [samples], row of the step whose logits are used
    temperature: 0 = greedy; top_k: 0 = off; top_p: 1 = off; min_p: 0 = off; penalties: 1, 0, 0 = off
    seed, sample_index, output_position: the key of the uniform number (Philox4x32-10)
    num_logprobs: [samples], -1 = none, 0 = of the sampled token only, n = of the n most likely too
    prompt_tokens, output_tokens: token ids so far, for penalties; None where the sample has no penalty
    logits_mask: uint32 [samples, ceil(vocab / 32)], bit set = allowed; None = all allowed
    logit_bias: per sample (token ids, values) or None
    """

    rows: Int32
    temperature: Float32
    top_k: Int32
    top_p: Float32
    min_p: Float32
    repetition_penalty: Float32
    presence_penalty: Float32
    frequency_penalty: Float32
    seed: npt.NDArray[np.uint64]
    sample_index: Int32
    output_position: Int32
    num_logprobs: Int32
    prompt_tokens: tuple[Int32 | None, ...]
    output_tokens: tuple[Int32 | None, ...]
    logits_mask: npt.NDArray[np.uint32] | None = None
    logit_bias: tuple[tuple[Int32, Float32] | None, ...] | None = None

    @classmethod
    def greedy(cls, rows: Int32) -> "SamplingBatch":
        """The most likely token of each of these rows of a step, and nothing else."""
        count = len(rows)
        zeros, ones, ints = np.zeros(count, np.float32), np.ones(count, np.float32), np.zeros(count, np.int32)
        return cls(
            rows=rows,
            temperature=zeros,
            top_k=ints,
            top_p=ones,
            min_p=zeros,
            repetition_penalty=ones,
            presence_penalty=zeros,
            frequency_penalty=zeros,
            seed=np.zeros(count, np.uint64),
            sample_index=ints,
            output_position=ints,
            num_logprobs=ints - 1,
            prompt_tokens=(None,) * count,
            output_tokens=(None,) * count,
        )


@dataclass(frozen=True, eq=False)
class StepInput:
    """Everything a back end needs for one step.

    token_ids, positions: [rows]; groups: one batch per KV group; copies: per group [n, 2] (source, destination) block ids,
    copied before anything is written.
    """

    token_ids: Int32
    positions: Int32
    groups: tuple[AttentionBatch, ...]
    copies: tuple[Int32, ...]
    sampling: SamplingBatch


@dataclass(frozen=True, eq=False)
class StepOutput:
    """token_ids: [samples]; logprobs: [samples], nan where not asked for; top_ids, top_logprobs: [samples, widest request],
    most likely first, entries past a sample's own num_logprobs are -1 and nan. Logprobs are of the raw distribution (before
    temperature, penalties and filters)."""

    token_ids: Int32
    logprobs: Float32
    top_ids: Int32
    top_logprobs: Float32
