"""Latency of a single request: time to first token by prompt length, time per token by context."""

from collections.abc import Sequence

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Say, Subject, Summary, Timing
from tiercel.bench.report import Row
from tiercel.bench.workload import Workload
from tiercel.types import ModelConfig

MILLI = 1e3


def measure_latency(
    subjects: Sequence[Subject], lengths: Sequence[int], num_tokens: int, runs: int, workload: Workload, say: Say
) -> dict[int, dict[str, list[Timing]]]:
    """Timings by prompt length and subject. All subjects get the same prompts, in turns, after a warm-up of each."""
    for subject in subjects:
        say(f"warming up {subject.name}")
        subject.generate(workload.prompt(min(lengths)), 4)
    timings: dict[int, dict[str, list[Timing]]] = {n: {s.name: [] for s in subjects} for n in lengths}
    for run in range(runs):
        for length in lengths:
            prompt = workload.prompt(length)
            for subject in subjects:
                say(f"run {run + 1} of {runs}: {length:,} tokens, {subject.name}")
                timings[length][subject.name].append(subject.generate(prompt, num_tokens))
    return timings


def latency_rows(timings: dict[int, dict[str, list[Timing]]], model: ModelConfig, limits: MachineLimits) -> list[Row]:
    """One row per prompt length and subject, and one for the least the machine could take."""
    rows: list[Row] = []
    for length, by_subject in timings.items():
        for name, several in by_subject.items():
            first = Summary.of([t.first for t in several])
            rows.append(_row(length, name, first, Summary.of([t.per_token * MILLI for t in several])))
        least = limits.first_token(model, length), limits.per_token(model, length) * MILLI
        rows.append(_row(length, "machine limit", *map(Summary.once, least)))
    return rows


def _row(length: int, name: str, first: Summary, per_token: Summary) -> Row:
    return {
        "prompt tokens": length,
        "who": name,
        "TTFT, s": first,
        "prompt tokens/s": length / first.median,
        "TPOT, ms": per_token,
    }
