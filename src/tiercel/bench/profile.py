"""Where the time of a decoding step goes: in each kernel, and between the native calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from statistics import mean
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import fixed_length
from tiercel.bench.report import Row
from tiercel.bench.work import ModelWork, compiled_model
from tiercel.bench.workload import Workload
from tiercel.engine import LLM
from tiercel.engine.request import Request
from tiercel.engine.runner import ModelRunner
from tiercel.engine.scheduler import SchedulerOutput
from tiercel.ops.cpu.packing import FORMATS
from tiercel.ops.cpu.plan import Op, Plan
from tiercel.types import StepInput, StepOutput

GIGA = 1e9
MILLI = 1e3
EVERYTHING, ATTENTION = "all kernels", "attention"
NAMES = {number: name for name, number in FORMATS.items()}


class Step(NamedTuple):
    """One step of an engine. start: `time.perf_counter()` when its arrays were asked for; executed: seconds in the back end;
    contexts: tokens of each request once the step is through."""

    start: float
    executed: float
    rows: int
    samples: int
    contexts: tuple[int, ...]


class Steps(list[Step]):
    """The steps of an engine, in order."""

    def seconds(self) -> list[float]:
        """From each step to the next, all that lies between included; of the last nobody knows when it ended."""
        return [after.start - step.start for step, after in pairwise(self)]

    def decoding(self, requests: int) -> "Steps":
        """The longest stretch of steps whose rows are one token of each of so many requests."""
        alike = groupby(self, lambda step: step.rows == step.samples == requests)
        stretches = [Steps(steps) for decoding, steps in alike if decoding]
        return max(stretches, key=len, default=Steps())


class WatchedRunner(ModelRunner):
    """Notes each step."""

    def __init__(self, llm: LLM) -> None:
        super().__init__(llm.core.runner.executor, llm.core.manager)
        self.steps = Steps()
        self._start = 0.0

    def prepare(self, scheduled: SchedulerOutput) -> tuple[StepInput, list[Request]]:
        self._start = perf_counter()
        return super().prepare(scheduled)

    def execute(self, step: StepInput) -> StepOutput:
        start = perf_counter()
        output = super().execute(step)
        executed = perf_counter() - start
        contexts = tuple(step.groups[0].lengths.tolist())
        self.steps.append(Step(self._start, executed, len(step.token_ids), len(step.sampling.rows), contexts))
        return output


@contextmanager
def watched(llm: LLM) -> Iterator[Steps]:
    """Yields a list that fills with the engine's steps as long as the context lasts."""
    runner, watcher = llm.core.runner, WatchedRunner(llm)
    llm.core.runner = watcher
    try:
        yield watcher.steps
    finally:
        llm.core.runner = runner


class DecodeProfile(NamedTuple):
    """The mean decoding step of one request. context: tokens of it in the middle of the run; native: seconds by kernel, in the
    order of a step; kernel_bytes: what some of them read of weights, keys and values; seconds: the whole step."""

    context: float
    native: dict[str, float]
    kernel_bytes: dict[str, float]
    seconds: float

    @property
    def between(self) -> float:
        """Seconds outside the native calls: scheduling, arrays, sampling, text."""
        return self.seconds - sum(self.native.values())


def profile_decode(llm: LLM, work: ModelWork, prompt_tokens: int, num_tokens: int, workload: Workload) -> DecodeProfile:
    """One request that decodes `num_tokens` tokens, two or more, behind a fresh prompt.

    On a back end that runs no program, whatever the step computes, sampling included, counts as one kernel.
    """
    model = compiled_model(llm)
    with watched(llm) as steps:
        deltas = llm.stream(workload.prompt(prompt_tokens), fixed_length(num_tokens + 1))
        next(deltas)
        steps.clear()
        seconds = np.zeros(0 if model is None else len(model.program.plan.instructions))
        if model is not None:
            model.seconds = seconds
        for _ in deltas:
            pass
        if model is not None:
            model.seconds = None
    context = prompt_tokens + (num_tokens + 1) / 2
    whole_step = mean(steps.seconds())
    if model is None:
        native = {EVERYTHING: mean(step.executed for step in steps)}
        return DecodeProfile(context, native, {EVERYTHING: work.step_bytes([context])}, whole_step)
    native, kernel_bytes = {}, {ATTENTION: work.kv_bytes(context)}
    for (name, weight_bytes), spent in zip(_kernels(model.program.plan), seconds.tolist(), strict=True):
        native[name] = native.get(name, 0.0) + spent / len(steps)
        if weight_bytes:
            kernel_bytes[name] = kernel_bytes.get(name, 0) + weight_bytes
    return DecodeProfile(context, native, kernel_bytes, whole_step)


def decode_rows(profile: DecodeProfile, work: ModelWork, limits: MachineLimits) -> list[Row]:
    """One row per kernel, then what lies between the native calls, the step, and the least that the machine allows."""
    rows = [_row(name, spent, profile, profile.kernel_bytes.get(name)) for name, spent in profile.native.items()]
    step_bytes = work.step_bytes([profile.context])
    return [
        *rows,
        _row("between native calls", profile.between, profile),
        _row("step", profile.seconds, profile, step_bytes),
        _row("machine limit", limits.step(work, [profile.context]), profile, step_bytes),
    ]


def _row(name: str, seconds: float, profile: DecodeProfile, num_bytes: float | None = None) -> Row:
    rate = num_bytes / seconds / GIGA if num_bytes and seconds else None
    return {"what": name, "ms per step": seconds * MILLI, "share, %": 100 * seconds / profile.seconds, "GB/s": rate}


def _kernels(plan: Plan) -> Iterator[tuple[str, int]]:
    """A name for each instruction, and the bytes of the matrix that it reads whole."""
    for entry in plan.instructions:
        if entry["op"] != Op.LINEAR:
            yield Op(entry["op"]).name.lower(), 0
            continue
        packed = plan.constants[entry["constant"][0]]
        formats = "+".join(sorted({NAMES[matrix.format] for matrix in packed.matrices}))
        yield f"linear {packed.columns} to {packed.rows}, {formats}", packed.num_bytes
