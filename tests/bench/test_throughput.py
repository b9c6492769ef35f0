"""The throughput benchmark on a tiny model."""

from tiercel import LLM
from tiercel.bench.measure import Summary
from tiercel.bench.throughput import Load, measure_throughput, profile_decoding, profile_rows, throughput_rows
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
    rows = {row["what"]: row["value"] for row in throughput_rows(load, runs)}
    assert rows["output tokens per second"] == Summary.of([12 / run.seconds for run in runs])
    assert rows["prompt and output tokens per second"] == Summary.of([222 / run.seconds for run in runs])
    assert rows["prompt tokens reused, %"] == Summary((0.0, 0.0))


def test_the_profile_holds_decoding_steps_only(llm: LLM) -> None:
    run = profile_decoding(llm, Load(5, 150, 6), Workload(259), quiet)
    assert run.steps == 6
    assert run.hit_rate == 128 / 129
    rows = profile_rows(run)
    phases = {row["phase"]: row["share, %"] for row in rows}
    assert {"schedule", "prepare", "execute", "update", "detokenize"} <= phases.keys()
    assert round(phases["execute"] + phases["all but execute"], 6) == round(phases["step"], 6) == 100
