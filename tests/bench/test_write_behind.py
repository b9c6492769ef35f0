"""The write-behind benchmark on a tiny model."""

from dataclasses import replace
from pathlib import Path

import pytest

from tiercel import LLM, SamplingParams
from tiercel.bench.measure import Summary
from tiercel.bench.trace import Trace
from tiercel.bench.workload import Workload
from tiercel.bench.write_behind import (
    DecodeLoad,
    DecodeRun,
    Step,
    _finish_writing,
    measure_write_behind,
    write_behind_rows,
)
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput, TiercelError


def config(model: Path, folder: Path, **more: object) -> EngineConfig:
    return EngineConfig(model=str(model), kv_memory="8MiB", kv_disk=str(folder), **more)


def quiet(text: str) -> None:
    """Nobody watches."""


def test_blocks_are_written_while_tokens_are_generated(tiny_model: Path, tmp_path: Path) -> None:
    runs = measure_write_behind(config(tiny_model, tmp_path), DecodeLoad(1024, 12), 2, Workload(259), quiet)
    assert [(len(run.with_store), len(run.without_store)) for run in runs] == [(12, 12), (12, 12)]
    assert not any(step.writing or step.writer for run in runs for step in run.without_store)
    assert len(list(tmp_path.rglob("*.kv"))) == 2 * 1024 // 64
    for run in runs:
        assert run.while_writing
        assert run.trace.on_this_thread("store") == []
        assert {span.name for span in run.trace.on_this_thread("engine")} >= {"step", "movement", "schedule", "execute"}
        assert "put" in {span.name for span in run.trace.spans if span.kind == "store"}


def test_the_rest_is_written_before_anything_else_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    with LLM(config=config(tiny_model, tmp_path)) as llm:
        llm.generate([Workload(259).prompt(1024)], SamplingParams(max_tokens=1))
        _finish_writing(llm.core)
        assert len(list(tmp_path.rglob("*.kv"))) == 1024 // 64


def test_what_is_never_written_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    settings = config(tiny_model, tmp_path, kv_disk_min_tokens=1024)
    with pytest.raises(TiercelError, match="no block was written"):
        measure_write_behind(settings, DecodeLoad(256, 4), 1, Workload(259), quiet)
    with pytest.raises(InvalidInput, match="prompt_tokens: must be a multiple of 64"):
        measure_write_behind(settings, DecodeLoad(100, 4), 1, Workload(259), quiet)


def test_rows_are_about_the_steps_that_write() -> None:
    step = Step(start=0.0, end=0.1, movement=0.001, writer=0.003, writing=True)
    idle = replace(step, end=9.0, writing=False)
    run = DecodeRun([step, replace(step, end=0.2, movement=0.002), idle], [replace(step, end=0.05)] * 2, 7, Trace(), "plan")
    rows = {row["what"]: row["value"] for row in write_behind_rows([run])}
    assert rows["decoding step while blocks are written, ms"] == Summary((150.00000000000003,))
    assert rows["while written / without"].median == pytest.approx(3.0)
    assert rows["both, % of a step"].median == pytest.approx(100 * (0.004 + 0.005) / 0.3)
    assert rows["longest movement in a step, ms"] == Summary((2.0,))
    assert rows["steps while blocks are written"] == Summary((2,))
    assert rows["blocks written meanwhile"] == Summary((7,))
    assert rows["calls to the store on the engine's thread"] == Summary((0,))
