"""Reading a text without an engine, on a tiny model."""

from pathlib import Path

import numpy as np
import pytest

from tests.bench.test_work import MODEL
from tests.support.networks import Run
from tiercel.bench.random_model import write_random_model
from tiercel.bench.reading import Network, Reading
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.models import open_checkpoint
from tiercel.ops import load_ops

TEXT = Workload(320).prompt(140)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    path = write_random_model(tmp_path_factory.mktemp("models") / "small", MODEL)
    return EngineConfig(model=str(path), kv_disk="off", backend="reference")


def test_a_reading_knows_what_came_before(config: EngineConfig) -> None:
    checkpoint = open_checkpoint(Path(config.model))
    expected = Run(checkpoint.config, checkpoint.weights, load_ops()).logits({"a": TEXT})["a"]
    reading = Reading(Network(config), config, len(TEXT))
    found = np.concatenate([reading.read(part).copy() for part in (TEXT[:50], TEXT[50:51], TEXT[51:])])
    assert np.abs(found - expected).max() < 1e-4


def test_it_begins_with_an_empty_cache(config: EngineConfig) -> None:
    reading = Reading(Network(config), config, len(TEXT))
    first = reading.read(TEXT[:30]).copy()
    reading.read(TEXT[30:])
    reading.begin()
    assert (reading.read(TEXT[:30]) == first).all()


def test_readings_share_a_network(config: EngineConfig) -> None:
    network = Network(config)
    one, other = (Reading(network, config.model_copy(update={"kv_dtype": kv}), len(TEXT)) for kv in ("float32", "bfloat16"))
    assert one.token_bytes == 2 * other.token_bytes
    early, late = one.read(TEXT[:70]).copy(), other.read(TEXT[:70]).copy()
    assert 0 < np.abs(early - late).max() < 0.05
    one.begin()
    assert (one.read(TEXT[:70]) == early).all()
