"""The native back end on a real model and a real text, held against float32: bounds that no broken kernel meets.

Rounding activations to bf16 moves each by up to 2^-9 of itself, quantising them to 8 bits by up to 2^-8 of the largest of 32;
the weights are those of the file, 4 bits each but for the table, or 8 bits made of them. What comes of that was measured, and
since every instruction set and number of threads gives the same bits, twice that is margin enough.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

from tiercel.bench import reading
from tiercel.bench.quality import FLOAT32, Formats, Quality, measure_quality, windows_of
from tiercel.bench.texts import read_essay
from tiercel.config import EngineConfig
from tiercel.engine.build import load_checkpoint
from tiercel.models import Checkpoint
from tiercel.types import ModelConfig

TOKENS = 400


class Bound(NamedTuple):
    agreement: float  # at least
    divergence: float  # at most, nats


BOUNDS = {  # measured:
    "stored": Bound(0.94, 0.006),  # 0.972, 0.0029
    "bf16": Bound(0.97, 0.0004),  # 0.995, 0.00017
    "int8": Bound(0.93, 0.008),  # 0.955, 0.0049
    "int4": Bound(0.94, 0.006),  # as stored: the file's own 4 bits are found again
}


def measured(*dtypes: str, tokens: int = TOKENS) -> dict[str, Quality]:
    config = EngineConfig(model="smollm2", kv_disk="off", threads=2)
    windows = windows_of(load_checkpoint(config).tokenizer.encode(read_essay())[:tokens], tokens)
    formats = [FLOAT32, *(Formats(name, "bfloat16") for name in dtypes)]
    return {each.weights: found for each, found in measure_quality(config, formats, windows, lambda text: None).items()}


@pytest.fixture(scope="module")
def qualities() -> dict[str, Quality]:
    return measured(*BOUNDS)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_next_tokens_are_those_of_float32(qualities: dict[str, Quality], dtype: str) -> None:
    assert qualities[dtype].agreement > BOUNDS[dtype].agreement
    assert 0 < qualities[dtype].divergence < BOUNDS[dtype].divergence


def test_the_text_is_one_that_the_model_understands(qualities: dict[str, Quality]) -> None:
    assert qualities["float32"].perplexity < 30
    assert all(abs(found.perplexity / qualities["float32"].perplexity - 1) < 0.03 for found in qualities.values())


@pytest.mark.parametrize(
    "mistake",
    [
        lambda config: replace(config, rms_norm_eps=100 * config.rms_norm_eps),
        lambda config: replace(config, rope=replace(config.rope, theta=1.5 * config.rope.theta)),
    ],
    ids=["eps", "rope base"],
)
def test_a_small_mistake_is_found(mistake: Callable[[ModelConfig], ModelConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: EngineConfig) -> Checkpoint:
        checkpoint = load_checkpoint(config)
        return replace(checkpoint, config=mistake(checkpoint.config)) if config.backend == "cpu" else checkpoint

    monkeypatch.setattr(reading, "load_checkpoint", load)
    assert measured("bf16", tokens=200)["bf16"].divergence > 1.5 * BOUNDS["bf16"].divergence
