"""Latency of a single request: time to first token by prompt length, time per token by context."""

from collections.abc import Sequence

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Generation, Say, Subject, Summary
from tiercel.bench.report import Row
from tiercel.bench.workload import Workload
from tiercel.types import ModelConfig

MILLI = 1e3


def measure_latency(
    subjects: Sequence[Subject], lengths: Sequence[int], num_tokens: int, runs: int, workload: Workload, say: Say
) -> dict[int, dict[str, list[Generation]]]:
    """Results by prompt length and subject. All subjects get the same prompts, in turns, after a warm-up of each."""
    for subject in subjects:
        say(f"warming up {subject.name}")
        subject.generate(workload.prompt(min(lengths)), 4)
    results: dict[int, dict[str, list[Generation]]] = {n: {s.name: [] for s in subjects} for n in lengths}
    for run in range(runs):
        for length in lengths:
            prompt = workload.prompt(length)
            for subject in subjects:
                say(f"run {run + 1} of {runs}: {length:,} tokens, {subject.name}")
                results[length][subject.name].append(subject.generate(prompt, num_tokens))
    return results


def latency_rows(results: dict[int, dict[str, list[Generation]]], model: ModelConfig, limits: MachineLimits) -> list[Row]:
    """One row per prompt length and subject, and one for the least the machine could take."""
    rows: list[Row] = []
    for length, by_subject in results.items():
        for name, several in by_subject.items():
            first = Summary.of([g.first for g in several])
            rows.append(_row(length, name, first, Summary.of([g.per_token * MILLI for g in several])))
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
