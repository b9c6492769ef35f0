"""Latency of a single request: time to first token by prompt length, time per token by context."""

from collections.abc import Sequence
from itertools import pairwise

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Generation, Say, Subject, Summary
from tiercel.bench.report import Row
from tiercel.bench.work import ModelWork
from tiercel.bench.workload import Workload

MILLI = 1e3
MICRO = 1e6
LIMIT = "machine limit"
Results = dict[int, dict[str, list[Generation]]]  # by prompt length and subject


def measure_latency(
    subjects: Sequence[Subject],
    lengths: Sequence[int],
    num_tokens: int,
    runs: int,
    workload: Workload,
    say: Say,
    *,
    same_prompts: bool = False,
) -> Results:
    """All subjects get the same prompts, in turns, after a warm-up of each.

    same_prompts: all runs of a length have one prompt, which each subject computes once before it is measured; so whoever
    keeps KV has little to compute, and only the times per token mean anything.
    """
    for subject in subjects:
        say(f"warming up {subject.name}")
        subject.generate(workload.prompt(min(lengths)), 4)
    results: Results = {n: {s.name: [] for s in subjects} for n in lengths}
    if same_prompts:
        for length in lengths:
            prompt = workload.prompt(length)
            for subject in subjects:
                say(f"{length:,} tokens, {subject.name}, not measured")
                subject.generate(prompt, 1)
            for run in range(runs):
                _turn(subjects, prompt, num_tokens, results, f"run {run + 1} of {runs}", say)
        return results
    for run in range(runs):
        for length in lengths:
            _turn(subjects, workload.prompt(length), num_tokens, results, f"run {run + 1} of {runs}", say)
    return results


def _turn(subjects: Sequence[Subject], prompt: list[int], num_tokens: int, results: Results, run: str, say: Say) -> None:
    for subject in subjects:
        say(f"{run}: {len(prompt):,} tokens, {subject.name}")
        results[len(prompt)][subject.name].append(subject.generate(prompt, num_tokens))


def decode_context(prompt_tokens: int, num_tokens: int) -> float:
    """Tokens of context of the mean token that counts for the time per token."""
    return prompt_tokens + num_tokens / 2


def latency_rows(results: Results, work: ModelWork, limits: MachineLimits, *, first_token: bool = True) -> list[Row]:
    """One row per prompt length and subject, and one for the least the machine could take, of everything read from memory and
    of a second read of it. The share is of that limit and means something where a subject's weights have the same bits."""
    rows: list[Row] = []
    for length, by_subject in results.items():
        context = decode_context(length, max(len(run.token_ids) for runs in by_subject.values() for run in runs))
        least, cached = limits.step(work, [context]) * MILLI, limits.from_cache(work, context)
        for name, several in by_subject.items():
            first = Summary.of([run.first for run in several])
            rows.append(_row(length, name, first, Summary.of([run.per_token * MILLI for run in several]), least))
        rows.append(_row(length, LIMIT, Summary.once(limits.first_token(work, length)), Summary.once(least), least))
        if cached is not None:
            rows.append(_row(length, "the same read from cache", None, Summary.once(cached * MILLI), least))
    if not first_token:
        rows = [{name: cell for name, cell in row.items() if name not in ("TTFT, s", "prompt tokens/s")} for row in rows]
    return rows


def _row(length: int, name: str, first: Summary | None, per_token: Summary, least: float) -> Row:
    ratios = Summary.of([100 * least / value if value else 0.0 for value in per_token.values])
    return {
        "prompt tokens": length,
        "who": name,
        "TTFT, s": first,
        "prompt tokens/s": length / first.median if first is not None else None,
        "TPOT, ms": per_token,
        "limit / TPOT, %": None if name == LIMIT else ratios,
    }


def context_rows(results: Results, work: ModelWork, limits: MachineLimits) -> list[Row]:
    """What each token of context adds to the time per token, between one prompt length and the next, run by run."""
    rows: list[Row] = []
    for (short, before), (long, after) in pairwise(sorted(results.items())):
        least = (work.kv_bytes(long) - work.kv_bytes(short)) / limits.bandwidth / (long - short)
        added = {
            name: Summary.of(
                [(b.per_token - a.per_token) / (long - short) * MICRO for a, b in zip(before[name], several, strict=True)]
            )
            for name, several in after.items()
        }
        for name, summary in {**added, LIMIT: Summary.once(least * MICRO)}.items():
            share = None if name == LIMIT or summary.median <= 0 else 100 * least * MICRO / summary.median
            between = f"{short:,} to {long:,}"
            rows.append({"context": between, "who": name, "per token of context, us": summary, "limit / this, %": share})
    return rows
