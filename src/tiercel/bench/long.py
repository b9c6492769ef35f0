"""Prefill of one long prompt, step by step: does its rate fall by more than attention's growth explains?

A step of a fixed number of rows costs a fixed time and, for attention, one in proportion to the context before it. The line
through the steps of the first half of a prompt says what those of the second half should take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiercel.bench.measure import Say, Summary, fixed_length
from tiercel.bench.profile import watched
from tiercel.bench.report import Row
from tiercel.bench.workload import Workload
from tiercel.engine import LLM
from tiercel.types import InvalidInput

MILLI = 1e3
_PARTS = 8  # rows of the table


@dataclass(frozen=True)
class Chunk:
    """One step of a prefill. context: tokens in front of its rows; seconds: until the next step begins."""

    context: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Line:
    """Seconds of a step: fixed + per_token * the mean context of its rows."""

    fixed: float
    per_token: float

    @classmethod
    def through(cls, chunks: Sequence[Chunk]) -> "Line":
        """Theil and Sen's estimate: the median of all slopes, which a few stray steps do not move."""
        x, y = (np.array(values) for values in zip(*((_mean_context(c), c.seconds) for c in chunks), strict=True))
        first, second = np.triu_indices(len(x), 1)
        slopes = (y[second] - y[first]) / (x[second] - x[first])
        slope = float(np.median(slopes))
        return cls(float(np.median(y - slope * x)), slope)

    def seconds(self, chunk: Chunk) -> float:
        return self.fixed + self.per_token * _mean_context(chunk)


def measure_long(llm: LLM, prompt_tokens: int, runs: int, workload: Workload, say: Say) -> list[list[Chunk]]:
    """The whole steps of each run's prefill. Raises InvalidInput for a prompt of too few steps to draw a line through."""
    rows = llm.plan.max_num_batched_tokens
    if prompt_tokens < 2 * _PARTS * rows:
        raise InvalidInput("prompt_tokens", f"must be at least {2 * _PARTS * rows:,}, {2 * _PARTS} steps of {rows:,} tokens")
    say("warming up")
    llm.generate([workload.prompt(2 * rows)], fixed_length(1))
    measured = []
    for run in range(runs):
        say(f"run {run + 1} of {runs}: {prompt_tokens:,} tokens")
        llm.forget()
        with watched(llm) as steps:
            llm.generate([workload.prompt(prompt_tokens)], fixed_length(2))
        chunks = [
            Chunk(step.contexts[0] - step.rows, step.rows, seconds)
            for step, seconds in zip(steps, steps.seconds(), strict=False)
            if step.rows == rows
        ]
        measured.append(chunks)
    return measured


def long_rows(measured: Sequence[Sequence[Chunk]]) -> list[Row]:
    """The prompt in equal parts: what it came to so far, the part's own rate, and its time as a share of the line's."""
    rows: list[Row] = []
    lines = [Line.through(chunks[: len(chunks) // 2]) for chunks in measured]
    for part in range(_PARTS):
        parts = [chunks[len(chunks) * part // _PARTS : len(chunks) * (part + 1) // _PARTS] for chunks in measured]
        ends = [chunks[: len(chunks) * (part + 1) // _PARTS] for chunks in measured]
        rows.append(
            {
                "tokens": ends[0][-1].context + ends[0][-1].rows,
                "seconds so far": Summary.of([sum(c.seconds for c in chunks) for chunks in ends]),
                "tokens/s here": Summary.of([_rate(chunks) for chunks in parts]),
                "time / line of the first half": Summary.of(
                    [
                        sum(c.seconds for c in chunks) / sum(line.seconds(c) for c in chunks)
                        for chunks, line in zip(parts, lines, strict=True)
                    ]
                ),
            }
        )
    return rows


def line_rows(measured: Sequence[Sequence[Chunk]]) -> list[Row]:
    """What a step costs by the line through the first half, run by run."""
    lines = [Line.through(chunks[: len(chunks) // 2]) for chunks in measured]
    return [
        {"what": "a step without context, ms", "value": Summary.of([line.fixed * MILLI for line in lines])},
        {"what": "and per 1,000 tokens of context, ms", "value": Summary.of([line.per_token * 1e3 * MILLI for line in lines])},
    ]


def _mean_context(chunk: Chunk) -> float:
    return chunk.context + (chunk.rows + 1) / 2


def _rate(chunks: Sequence[Chunk]) -> float:
    return sum(c.rows for c in chunks) / sum(c.seconds for c in chunks)
