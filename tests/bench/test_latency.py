"""The latency benchmark with subjects whose times are known."""

from collections.abc import Sequence

import pytest

from tests.bench.test_limits import WORK, limits
from tiercel.bench.latency import context_rows, decode_context, latency_rows, measure_latency
from tiercel.bench.measure import Generation, Summary
from tiercel.bench.workload import Workload

LIMITS = limits(bandwidth=1e3, rate=1e6)


class Clockwork:
    """Takes a second per prompt token for the first token and `pace` seconds for each later one."""

    def __init__(self, name: str, pace: float, calls: list[tuple[str, tuple[int, ...], int]]) -> None:
        self.name = name
        self._pace = pace
        self._calls = calls

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        self._calls.append((self.name, tuple(prompt), num_tokens))
        return Generation([0] * num_tokens, float(len(prompt)), self._pace * (num_tokens - 1))


def quiet(text: str) -> None:
    """Nobody watches."""


def test_subjects_take_turns_on_the_same_fresh_prompts() -> None:
    calls: list[tuple[str, tuple[int, ...], int]] = []
    subjects = [Clockwork("a", 0.5, calls), Clockwork("b", 0.25, calls)]
    results = measure_latency(subjects, [3, 5], 7, 2, Workload(1000), quiet)
    warm_up, measured = calls[:2], calls[2:]
    assert [name for name, _, _ in warm_up] == ["a", "b"]
    assert [(name, len(prompt), n) for name, prompt, n in measured] == [("a", 3, 7), ("b", 3, 7), ("a", 5, 7), ("b", 5, 7)] * 2
    assert all(one[1] == other[1] for one, other in zip(measured[::2], measured[1::2], strict=True))
    assert len({prompt for _, prompt, _ in measured}) == 4
    assert {length: {name: len(runs) for name, runs in by.items()} for length, by in results.items()} == {
        3: {"a": 2, "b": 2},
        5: {"a": 2, "b": 2},
    }


def test_the_same_prompts_are_computed_before() -> None:
    calls: list[tuple[str, tuple[int, ...], int]] = []
    subjects = [Clockwork("a", 0.5, calls), Clockwork("b", 0.25, calls)]
    results = measure_latency(subjects, [3, 5], 7, 2, Workload(1000), quiet, same_prompts=True)
    short, long = calls[2:8], calls[8:]
    for length, part in ((3, short), (5, long)):
        assert [(name, n) for name, _, n in part] == [("a", 1), ("b", 1), ("a", 7), ("b", 7), ("a", 7), ("b", 7)]
        assert {len(prompt) for _, prompt, _ in part} == {length}
        assert len({prompt for _, prompt, _ in part}) == 1
    assert [len(results[length]["a"]) for length in (3, 5)] == [2, 2]


def test_rows_compare_with_the_machine() -> None:
    results = {4: {"a": [Generation([0] * 3, 2.0, 1.0), Generation([0] * 3, 4.0, 3.0)]}}
    subject, limit = latency_rows(results, WORK, LIMITS)
    least = LIMITS.step(WORK, [decode_context(4, 3)])
    assert least == (1000 + 5.5 * 14) / 1e3
    assert (subject["who"], subject["TTFT, s"]) == ("a", Summary((2.0, 4.0)))
    assert (subject["prompt tokens/s"], subject["TPOT, ms"]) == (4 / 3, Summary((500.0, 1500.0)))
    assert subject["limit / TPOT, %"].values == pytest.approx((100 * least / 0.5, 100 * least / 1.5))
    assert (limit["who"], limit["TTFT, s"]) == ("machine limit", Summary.once(LIMITS.first_token(WORK, 4)))
    assert limit["TPOT, ms"] == Summary.once(least * 1e3)


def test_a_small_model_is_also_held_against_the_cache() -> None:
    results = {4: {"a": [Generation([0] * 4, 2.0, 1.0)]}}
    size = 1000 + 6 * 14
    *_, cached = latency_rows(results, WORK, limits(1e3, 1e6, {size: 4e3}), first_token=False)
    assert (cached["who"], cached["TPOT, ms"]) == ("the same read from cache", Summary.once(size / 4.0))
    assert "TTFT, s" not in cached


def test_what_context_adds() -> None:
    def done(per_token: float) -> Generation:
        return Generation([0, 0], 1.0, per_token)

    results = {100: {"a": [done(2.0), done(3.0)]}, 20: {"a": [done(1.0), done(1.0)]}}
    subject, limit = context_rows(results, WORK, LIMITS)
    least = (80 * 10 + 30 * 4) / 80 / 1e3
    assert (subject["context"], subject["who"]) == ("20 to 100", "a")
    assert subject["per token of context, us"] == Summary((1 / 80 * 1e6, 2 / 80 * 1e6))
    assert limit["per token of context, us"] == Summary.once(least * 1e6)
    assert subject["limit / this, %"] == pytest.approx(100 * least / (1.5 / 80))
