"""The latency benchmark with subjects whose times are known."""

from collections.abc import Sequence

from tests.bench.test_limits import MODEL
from tiercel.bench.latency import latency_rows, measure_latency
from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Generation, Summary
from tiercel.bench.workload import Workload


class Clockwork:
    """Takes a second per prompt token for the first token and `pace` seconds for each later one."""

    def __init__(self, name: str, pace: float, calls: list[tuple[str, tuple[int, ...], int]]) -> None:
        self.name = name
        self._pace = pace
        self._calls = calls

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        self._calls.append((self.name, tuple(prompt), num_tokens))
        return Generation([0] * num_tokens, float(len(prompt)), self._pace * (num_tokens - 1))


def test_subjects_take_turns_on_the_same_fresh_prompts() -> None:
    calls: list[tuple[str, tuple[int, ...], int]] = []
    subjects = [Clockwork("a", 0.5, calls), Clockwork("b", 0.25, calls)]
    results = measure_latency(subjects, [3, 5], 7, 2, Workload(1000), lambda text: None)
    warm_up, measured = calls[:2], calls[2:]
    assert [name for name, _, _ in warm_up] == ["a", "b"]
    assert [(name, len(prompt), n) for name, prompt, n in measured] == [("a", 3, 7), ("b", 3, 7), ("a", 5, 7), ("b", 5, 7)] * 2
    assert all(one[1] == other[1] for one, other in zip(measured[::2], measured[1::2], strict=True))
    assert len({prompt for _, prompt, _ in measured}) == 4
    assert {length: {name: len(runs) for name, runs in by.items()} for length, by in results.items()} == {
        3: {"a": 2, "b": 2},
        5: {"a": 2, "b": 2},
    }


def test_rows_compare_with_the_machine() -> None:
    results = {4: {"a": [Generation([0] * 3, 2.0, 1.0), Generation([0] * 3, 4.0, 3.0)]}}
    subject, limit = latency_rows(results, MODEL, MachineLimits(1e3, 1e3))
    assert (subject["who"], subject["TTFT, s"]) == ("a", Summary((2.0, 4.0)))
    assert (subject["prompt tokens/s"], subject["TPOT, ms"]) == (4 / 3, Summary((500.0, 1500.0)))
    assert (limit["who"], limit["TTFT, s"]) == ("machine limit", Summary.once(MachineLimits(1e3, 1e3).first_token(MODEL, 4)))
