"""What a back end and its weights cost in quality: next-token distributions on a text, held against the reference in float32.

Every model reads the same text, whatever it would have said itself, so that a difference at one token does not move all later
ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tiercel.bench.measure import Say
from tiercel.bench.report import Row
from tiercel.config import EngineConfig
from tiercel.engine.build import layout_groups, load_checkpoint
from tiercel.engine.compute import resolve_compute
from tiercel.kv import Arena
from tiercel.models import load_model
from tiercel.platforms import detect
from tiercel.types import BLOCK_TOKENS, AttentionBatch, InvalidInput, SamplingBatch, StepInput

Float64 = npt.NDArray[np.float64]
REFERENCE = "float32"
CHUNK = 64  # rows of a step: a row's logits are a whole vocabulary


@dataclass
class Quality:
    """How one model's next-token distributions compare, token by token. same: whether the likeliest token is the reference's;
    divergences: KL(reference, this) in nats; surprises: -log probability of the text's own next token."""

    same: list[bool] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    surprises: list[float] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Share of tokens at which greedy decoding would have gone on alike."""
        return float(np.mean(self.same))

    @property
    def divergence(self) -> float:
        """Mean KL divergence, nats."""
        return float(np.mean(self.divergences))

    @property
    def perplexity(self) -> float:
        return float(np.exp(np.mean(self.surprises)))


class Reading:
    """A model that reads a text chunk by chunk, without an engine around it."""

    def __init__(self, config: EngineConfig, num_tokens: int) -> None:
        """Raises what building an engine raises."""
        checkpoint = load_checkpoint(config)
        compute = resolve_compute(config, checkpoint.config, detect())
        groups = layout_groups(compute, checkpoint)
        self._num_blocks = -(-num_tokens // BLOCK_TOKENS)
        arena = Arena(groups, self._num_blocks)
        self._ops = compute.load()
        self._model = load_model(checkpoint, self._ops, groups)
        self._kv = tuple(self._ops.bind_kv(area, group.layout) for area, group in zip(arena.groups, groups, strict=True))
        self._arena = arena
        self._read = 0

    def read(self, token_ids: Sequence[int]) -> Float64:
        """Log-probabilities of the token after each of these, [tokens, vocab]."""
        step = self._step(np.array(token_ids, np.int32))
        self._read += len(token_ids)
        logits = np.asarray(self._model(self._ops, self._ops.begin(step), self._kv)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def _step(self, token_ids: npt.NDArray[np.int32]) -> StepInput:
        count = len(token_ids)
        positions = np.arange(self._read, self._read + count, dtype=np.int32)
        batch = AttentionBatch(
            query_start=np.array([0, count], np.int32),
            q_positions=positions,
            block_tables=np.arange(self._num_blocks, dtype=np.int32)[None],
            lengths=np.array([self._read + count], np.int32),
            slot_mapping=positions.astype(np.int64),
        )
        groups = len(self._kv)
        return StepInput(token_ids, positions, (batch,) * groups, (np.empty((0, 2), np.int32),) * groups, _all_rows(count))


def measure_quality(models: Mapping[str, EngineConfig], token_ids: Sequence[int], say: Say) -> dict[str, Quality]:
    """By name, the reference's under `REFERENCE`. models: settings of what is compared, all of one checkpoint.

    Raises InvalidInput for a text too short to say anything, and what building an engine raises.
    """
    if len(token_ids) < 2:
        raise InvalidInput("text", "has no token after the first")
    base = next(iter(models.values()))
    exact = base.model_copy(update={"backend": "reference", "dtype": "float32", "kv_dtype": "auto"})
    readings = {}
    for name, config in {REFERENCE: exact, **models}.items():
        say(f"loading {name}")
        readings[name] = Reading(config, len(token_ids))
    qualities = {name: Quality() for name in readings}
    for start in range(0, len(token_ids) - 1, CHUNK):
        say(f"reading {start:,} of {len(token_ids):,} tokens")
        chunk, following = token_ids[:-1][start : start + CHUNK], np.array(token_ids[1:][start : start + CHUNK])
        truth = readings[REFERENCE].read(chunk)
        for name, reading in readings.items():
            found = truth if name == REFERENCE else reading.read(chunk)
            quality = qualities[name]
            quality.same += (found.argmax(axis=1) == truth.argmax(axis=1)).tolist()
            quality.divergences += (np.exp(truth) * (truth - found)).sum(axis=1).tolist()
            quality.surprises += (-found[np.arange(len(chunk)), following]).tolist()
    return qualities


def quality_rows(qualities: Mapping[str, Quality]) -> list[Row]:
    return [
        {
            "who": name,
            "greedy agreement, %": 100 * quality.agreement,
            "mean KL, nats": quality.divergence,
            "KL, 99 % below": float(np.quantile(quality.divergences, 0.99)),
            "perplexity": quality.perplexity,
        }
        for name, quality in qualities.items()
    ]


def _all_rows(count: int) -> SamplingBatch:
    """Asks for the logits of every row; nothing is sampled from them here."""
    zeros, ones, ints = np.zeros(count, np.float32), np.ones(count, np.float32), np.zeros(count, np.int32)
    return SamplingBatch(
        rows=np.arange(count, dtype=np.int32),
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
