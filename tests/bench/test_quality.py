"""Quality on a text: statistics against other ways to find them, and a tiny model."""

import numpy as np
import pytest

from tests.bench.test_work import MODEL
from tiercel.bench import quality
from tiercel.bench.quality import (
    BF16,
    FLOAT32,
    Formats,
    Quality,
    measure_quality,
    quality_rows,
    student_t,
    windows_of,
)
from tiercel.bench.random_model import write_random_model
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput


def quiet(text: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    path = write_random_model(tmp_path_factory.mktemp("models") / "small", MODEL)
    return EngineConfig(model=str(path), kv_disk="off")


CHUNK, WINDOW = 64, 64 + 11
WINDOWS = np.array(Workload(320).prompt(2 * WINDOW), np.int32).reshape(2, WINDOW)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "CHUNK", CHUNK)


def quality_of(surprises: np.ndarray) -> Quality:
    return Quality(np.ones(surprises.shape, np.bool_), np.zeros(surprises.shape), surprises)


def test_the_reference_agrees_with_itself(config: EngineConfig) -> None:
    reference = config.model_copy(update={"backend": "reference"})
    qualities = measure_quality(reference, [FLOAT32, Formats("float32", "bfloat16"), FLOAT32], WINDOWS, quiet)
    assert list(qualities) == [FLOAT32, Formats("float32", "bfloat16")]
    exact, rounded = qualities.values()
    assert (exact.agreement, exact.divergence, exact.same.shape) == (1.0, 0.0, (2, WINDOW - 1))
    assert exact.perplexity == pytest.approx(MODEL.vocab_size, rel=0.2)  # a network that knows nothing
    assert exact.kv_bytes == 2 * rounded.kv_bytes
    assert 0 < rounded.divergence < 1e-4


def test_every_window_is_read_from_an_empty_cache(config: EngineConfig) -> None:
    together = measure_quality(config, [BF16], WINDOWS, quiet)[BF16].surprises
    apart = [measure_quality(config, [BF16], windows, quiet)[BF16].surprises for windows in (WINDOWS[:1], WINDOWS[1:])]
    assert (together == np.concatenate(apart)).all()


@pytest.mark.parametrize("kv", ["bfloat16", "int8", "int4", "int4-plain"])
def test_chunks_change_nothing(config: EngineConfig, kv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = Formats("bf16", kv)
    whole = measure_quality(config, [formats], WINDOWS, quiet)[formats].surprises
    monkeypatch.setattr(quality, "CHUNK", 23)
    assert (measure_quality(config, [formats], WINDOWS, quiet)[formats].surprises == whole).all()


def test_formats_of_kv(config: EngineConfig) -> None:
    formats = [BF16, *(Formats("bf16", kv) for kv in ("int8", "int4"))]
    exact, fine, coarse = measure_quality(config, formats, WINDOWS, quiet).values()
    assert exact.kv_bytes > fine.kv_bytes > coarse.kv_bytes
    assert 0 < fine.divergence < coarse.divergence < 0.01


def test_formats_of_weights_on_the_native_back_end(config: EngineConfig) -> None:
    int4 = Formats("int4", "bfloat16")
    qualities = measure_quality(config, [FLOAT32, BF16, int4], WINDOWS, quiet)
    assert 0 < qualities[BF16].divergence < qualities[int4].divergence < 0.01


def test_figures_by_hand() -> None:
    same, divergences = np.array([[True, True], [False, True]]), np.array([[0.5, 0.0], [0.0, 0.5]])
    base = quality_of(np.full((2, 2), np.log(3.0)))
    other = Quality(same, divergences, np.array([[np.log(2.0), np.log(8.0)]] * 2), 40)
    first, row = quality_rows({BF16: base, Formats("int4", "int8"): other})
    assert (first["change, %"], first["at least"], first["at most"]) == (0.0, None, None)
    assert (row["weights"], row["KV"], row["bytes a token"]) == ("int4", "int8", 40)
    assert (row["mean KL, nats"], row["same top, %"]) == (0.25, 75.0)
    assert row["perplexity"] == pytest.approx(4.0)
    assert row["change, %"] == pytest.approx(100 / 3)
    assert row["at most"] is None  # two windows say nothing of others


def test_an_interval_is_what_resampling_finds() -> None:
    rng = np.random.default_rng(3)
    base = 3 + rng.standard_normal((60, 1)) + rng.standard_normal((60, 50))  # windows differ far more than formats do
    other = base + 0.004 + 0.003 * rng.standard_normal((60, 1)) + 0.01 * rng.standard_normal(base.shape)
    change = quality_of(other).change(quality_of(base))
    drawn = rng.integers(60, size=(20_000, 60))
    low, high = np.quantile(np.expm1((other - base).mean(axis=1)[drawn].mean(axis=1)), [0.025, 0.975])
    width = high - low
    assert change.low is not None
    assert change.high is not None
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.1 * width)
    assert change.value == pytest.approx(quality_of(other).perplexity / quality_of(base).perplexity - 1)
    assert width < 0.002  # although the perplexity itself is known to no better than 25 %


def test_an_interval_holds_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(4)
    base = quality_of(np.zeros((6, 1)))
    found = [quality_of(0.1 + rng.standard_normal((6, 1))).change(base) for _ in range(2000)]
    share = np.mean([change.low < np.expm1(0.1) < change.high for change in found])  # type: ignore[operator]
    assert 0.935 < share < 0.965


@pytest.mark.parametrize(("freedom", "expected"), [(4, 2.7764), (5, 2.5706), (10, 2.2281), (43, 2.0167), (10_000, 1.9602)])
def test_student_t(freedom: int, expected: float) -> None:
    assert student_t(freedom) == pytest.approx(expected, abs=0.01)


def test_windows_are_whole() -> None:
    assert windows_of(range(10), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows_of(range(3), 4).tolist() == [[0, 1, 2]]
    with pytest.raises(InvalidInput, match="text: has no token after the first"):
        windows_of([1], 4)


def test_a_window_has_room_in_the_context(config: EngineConfig) -> None:
    with pytest.raises(InvalidInput, match="window"):
        measure_quality(config, [BF16], np.zeros((1, MODEL.max_position + 1), np.int32), quiet)
