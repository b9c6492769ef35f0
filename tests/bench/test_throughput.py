"""The throughput benchmark on a tiny model."""

import pytest

from tests.bench.test_limits import limits
from tiercel import LLM
from tiercel.bench.measure import Summary
from tiercel.bench.throughput import Load, measure_throughput, profile_decoding, profile_rows, throughput_rows
from tiercel.bench.work import ModelWork
from tiercel.bench.workload import Workload


def quiet(text: str) -> None:
    """Nobody watches."""


def test_every_run_starts_from_an_empty_cache(llm: LLM) -> None:
    runs = measure_throughput(llm, Load(4, 100, 5), 2, Workload(259), quiet)
    assert [[len(output.samples[0].token_ids) for output in run.outputs] for run in runs] == [[5] * 4] * 2
    assert [run.hit_rate for run in runs] == [0.0, 0.0]
    assert [run.after.generation_tokens - run.before.generation_tokens for run in runs] == [20, 20]


def test_shared_tokens_are_found_again(llm: LLM) -> None:
    llm_runs = measure_throughput(llm, Load(6, 200, 2, shared_tokens=128), 1, Workload(259), quiet)
    assert 0.3 < llm_runs[0].hit_rate <= 128 / 200


def test_rows_count_tokens(llm: LLM) -> None:
    load = Load(3, 70, 4)
    runs = measure_throughput(llm, load, 2, Workload(259), quiet)
    work, machine = ModelWork.of(llm), limits(1e9, 1e9)
    machine.arithmetic["float32"] = 1e12
    (row,) = throughput_rows({load: runs}, work, machine)
    assert row["requests"] == 3
    assert row["output tokens/s"] == Summary.of([12 / run.seconds for run in runs])
    assert row["all tokens/s"] == Summary.of([222 / run.seconds for run in runs])
    assert row["reused, %"] == Summary((0.0, 0.0))
    # the first token comes with the prompts; then 71 and 72 tokens of context, and 73 in the step that nobody times
    least = (machine.step(work, [71] * 3) + machine.step(work, [72] * 3)) / 2
    assert row["limit, ms"] == Summary((least * 1e3,) * 2)
    assert row["limit / step, %"].median == pytest.approx(100 * least * 1e3 / row["decoding step, ms"].median, rel=0.5)


def test_without_a_decoding_step_there_is_no_figure(llm: LLM) -> None:
    load = Load(2, 70, 1)
    machine = limits(1e9, 1e9)
    (row,) = throughput_rows({load: measure_throughput(llm, load, 1, Workload(259), quiet)}, ModelWork.of(llm), machine)
    assert (row["decoding step, ms"], row["limit, ms"], row["limit / step, %"]) == (None, None, None)


def test_the_profile_holds_decoding_steps_only(llm: LLM) -> None:
    run = profile_decoding(llm, Load(5, 150, 6), Workload(259), quiet)
    assert len(run.steps) == 6
    assert run.hit_rate == 128 / 129
    rows = profile_rows(run)
    phases = {row["phase"]: row["share, %"] for row in rows}
    assert {"schedule", "prepare", "execute", "update", "detokenize"} <= phases.keys()
    assert round(phases["execute"] + phases["all but execute"], 6) == round(phases["step"], 6) == 100
