"""Distributions against each other: by hand, and against the definitions in float64."""

import numpy as np
import pytest

from tiercel.bench import distributions
from tiercel.bench.distributions import Truth


def logits_of(*rows: list[float]) -> np.ndarray:
    return np.log(np.array(rows)).astype(np.float32) + 5  # a constant changes nothing


def test_two_distributions_by_hand() -> None:
    truth = Truth(2, 3)
    truth.become(logits_of([0.5, 0.25, 0.25], [0.2, 0.2, 0.6]))
    same, divergences, surprises = truth.compare(logits_of([0.25, 0.5, 0.25], [0.2, 0.2, 0.6]), np.array([1, 0], np.int32))
    assert same.tolist() == [False, True]
    assert divergences == pytest.approx([0.25 * np.log(2), 0], abs=1e-6)
    assert surprises == pytest.approx([np.log(2), np.log(5)], rel=1e-6)


@pytest.mark.parametrize("cached", [1, 700, 1 << 17])
def test_as_defined(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "_CACHED", cached)
    rng = np.random.default_rng(cached)
    truth = Truth(9, 300)
    for rows, distance in [(9, 0.01), (4, 3.0)]:
        a = (6 * rng.standard_normal((rows, 300))).astype(np.float32)
        b = (a + distance * rng.standard_normal(a.shape)).astype(np.float32)
        following = rng.integers(300, size=rows).astype(np.int32)
        truth.become(a)
        a[:] = 0  # it was copied
        truth_again = truth._logits[:rows].astype(np.float64)
        p, q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (truth_again, b.astype(np.float64)))
        compared = truth.compare(b, following)
        assert np.abs(compared.divergences - (np.exp(p) * (p - q)).sum(axis=1)).max() < 2e-6
        assert np.abs(compared.surprises + q[np.arange(rows), following]).max() < 2e-6
        assert (compared.same == (p.argmax(axis=1) == q.argmax(axis=1))).all()


def test_itself() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 1000)).astype(np.float32)
    truth = Truth(5, 1000)
    truth.become(logits)
    same, divergences, _ = truth.compare(logits, np.zeros(5, np.int32))
    assert same.all()
    assert not divergences.any()


def test_logits_far_apart_are_no_trouble() -> None:
    truth = Truth(1, 3)
    truth.become(np.array([[3000, 0, -3000]], np.float32))
    (same,), (divergence,), (surprise,) = truth.compare(np.array([[-3000, 0, 3000]], np.float32), np.array([1], np.int32))
    assert (same, divergence, surprise) == (False, 6000, 3000)
