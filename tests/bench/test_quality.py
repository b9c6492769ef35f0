"""Quality on a text, with distributions made by hand and with a tiny model."""

from pathlib import Path

import numpy as np
import pytest

from tests.bench.test_work import MODEL
from tests.support.networks import Run
from tiercel.bench.quality import CHUNK, REFERENCE, Quality, Reading, measure_quality, quality_rows
from tiercel.bench.random_model import write_random_model
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.models import open_checkpoint
from tiercel.ops import load_ops
from tiercel.types import InvalidInput


def quiet(text: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    path = write_random_model(tmp_path_factory.mktemp("models") / "small", MODEL)
    return EngineConfig(model=str(path), kv_disk="off")


TEXT = Workload(320).prompt(2 * CHUNK + 11)


def test_a_reading_knows_what_came_before(config: EngineConfig) -> None:
    checkpoint = open_checkpoint(Path(config.model))
    logits = Run(checkpoint.config, checkpoint.weights, load_ops()).logits({"a": TEXT})["a"].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    reading = Reading(config.model_copy(update={"backend": "reference"}), len(TEXT))
    found = np.concatenate([reading.read(TEXT[:50]), reading.read(TEXT[50:51]), reading.read(TEXT[51:])])
    assert np.abs(found - expected).max() < 1e-4


def test_the_reference_agrees_with_itself(config: EngineConfig) -> None:
    qualities = measure_quality({"again": config.model_copy(update={"backend": "reference"})}, TEXT, quiet)
    assert list(qualities) == [REFERENCE, "again"]
    for quality in qualities.values():
        assert (quality.agreement, quality.divergence, len(quality.same)) == (1.0, 0.0, len(TEXT) - 1)
    assert qualities[REFERENCE].perplexity == pytest.approx(MODEL.vocab_size, rel=0.2)  # a network that knows nothing


def test_the_native_back_end_is_near(config: EngineConfig) -> None:
    native = config.model_copy(update={"backend": "cpu"})
    models = {name: native.model_copy(update={"dtype": name}) for name in ("bf16", "int4")}
    qualities = measure_quality(models, TEXT, quiet)
    assert 0 < qualities["bf16"].divergence < qualities["int4"].divergence < 0.01


def test_figures_by_hand() -> None:
    quality = Quality([True, True, False, True], [0.5, 0.0, 0.0, 0.5], [np.log(2.0), np.log(8.0)] * 2)
    (row,) = quality_rows({"someone": quality})
    assert (row["who"], row["greedy agreement, %"], row["mean KL, nats"]) == ("someone", 75.0, 0.25)
    assert row["perplexity"] == pytest.approx(4.0)


def test_a_text_has_two_tokens_at_least(config: EngineConfig) -> None:
    with pytest.raises(InvalidInput, match="text"):
        measure_quality({"a": config}, [1], quiet)
