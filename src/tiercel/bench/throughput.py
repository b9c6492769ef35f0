"""Throughput of many requests at once, and where the time of a step goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from time import perf_counter

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Say, Summary, fixed_length
from tiercel.bench.profile import Steps, watched
from tiercel.bench.report import Row
from tiercel.bench.work import ModelWork
from tiercel.bench.workload import Workload
from tiercel.engine import LLM, EngineStats, RequestOutput
from tiercel.types import BLOCK_TOKENS

MILLI = 1e3


@dataclass(frozen=True)
class Load:
    """So many requests at once, each of one length; the first `shared_tokens` of their prompts are the same."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int = 0


@dataclass(frozen=True)
class Run:
    """One measured run: its wall time, what came out, the engine's counters before and after, and its steps."""

    seconds: float
    outputs: list[RequestOutput]
    before: EngineStats
    after: EngineStats
    steps: Steps = field(default_factory=Steps)

    @property
    def hit_rate(self) -> float:
        """Share of the looked-up prompt tokens whose KV was there."""
        queries = self.after.prefix_query_tokens - self.before.prefix_query_tokens
        return (self.after.prefix_hit_tokens - self.before.prefix_hit_tokens) / max(1, queries)

    @property
    def phase_seconds(self) -> dict[str, float]:
        return {name: total - self.before.phase_seconds.get(name, 0.0) for name, total in self.after.phase_seconds.items()}


def measure_throughput(llm: LLM, load: Load, runs: int, workload: Workload, say: Say) -> list[Run]:
    """Several runs of fresh prompts, from an empty cache each, after a warm-up."""
    say("warming up")
    _run(llm, workload.prompts(2, BLOCK_TOKENS), 4)
    measured = []
    for run in range(runs):
        say(f"run {run + 1} of {runs}: {load.requests} requests of {load.prompt_tokens} + {load.output_tokens} tokens")
        llm.forget()
        prompts = workload.prompts(load.requests, load.prompt_tokens, load.shared_tokens)
        measured.append(_run(llm, prompts, load.output_tokens))
    return measured


def profile_decoding(llm: LLM, load: Load, workload: Workload, say: Say) -> Run:
    """A run of decoding steps only: the prompts are computed beforehand, and one token of each is left to do.

    Prompts are cut to whole blocks and one token more, since whole blocks are what the cache finds again.
    """
    length = max(1, load.prompt_tokens // BLOCK_TOKENS) * BLOCK_TOKENS + 1
    prompts = workload.prompts(load.requests, length)
    say(f"profile: computing {load.requests} prompts of {length} tokens")
    _run(llm, prompts, 1)
    say(f"profile: {load.output_tokens} steps of {load.requests} requests")
    return _run(llm, prompts, load.output_tokens)


def throughput_rows(measured: Mapping[Load, Sequence[Run]], work: ModelWork, limits: MachineLimits) -> list[Row]:
    """One row per load. A decoding step is one in which all requests of the load generate."""
    rows: list[Row] = []
    for load, runs in measured.items():
        generated = load.requests * load.output_tokens
        handled = generated + load.requests * load.prompt_tokens
        decoding = [run.steps.decoding(load.requests) for run in runs]
        known = all(len(steps) > 1 for steps in decoding)
        seconds = Summary.of([mean(steps.seconds()) for steps in decoding]) if known else None
        least = Summary.of([_least(steps, work, limits) for steps in decoding]) if known else None
        rows.append(
            {
                "requests": load.requests,
                "output tokens/s": Summary.of([generated / run.seconds for run in runs]),
                "all tokens/s": Summary.of([handled / run.seconds for run in runs]),
                "TTFT, s": Summary.of([output.time_to_first_token for run in runs for output in run.outputs]),
                "reused, %": Summary.of([100 * run.hit_rate for run in runs]),
                "decoding step, ms": seconds.scaled(MILLI) if seconds else None,
                "limit, ms": least.scaled(MILLI) if least else None,
                "limit / step, %": least.over(seconds).scaled(100) if seconds and least else None,
            }
        )
    return rows


def _least(steps: Steps, work: ModelWork, limits: MachineLimits) -> float:
    """Mean of the least seconds that the machine allows for each step but the last, whose end nobody knows."""
    return mean(limits.step(work, step.contexts) for step in steps[:-1])


def profile_rows(run: Run) -> list[Row]:
    """One row per phase of a step, in the order of a step, and their sum."""
    seconds = run.phase_seconds
    total = sum(seconds.values())
    rows: list[Row] = [_phase_row(name, spent, total, len(run.steps)) for name, spent in seconds.items()]
    outside = total - seconds.get("execute", 0.0)
    steps = len(run.steps)
    return [*rows, _phase_row("all but execute", outside, total, steps), _phase_row("step", total, total, steps)]


def _phase_row(name: str, seconds: float, total: float, steps: int) -> Row:
    return {"phase": name, "per step, ms": seconds / max(1, steps) * MILLI, "share, %": 100 * seconds / total}


def _run(llm: LLM, prompts: list[list[int]], output_tokens: int) -> Run:
    before = llm.stats()
    with watched(llm) as steps:
        start = perf_counter()
        outputs = llm.generate(prompts, fixed_length(output_tokens))
        seconds = perf_counter() - start
    return Run(seconds, outputs, before, llm.stats(), steps)
