"""Watched engines, and where a decoding step's time goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.test_limits import WORK, limits
from tests.bench.test_work import HEAD, MODEL
from tiercel import LLM
from tiercel.bench.measure import TiercelSubject
from tiercel.bench.profile import DecodeProfile, Step, Steps, decode_rows, profile_decode, watched
from tiercel.bench.random_model import write_random_model
from tiercel.bench.work import ModelWork, compiled_model
from tiercel.bench.workload import Workload


def step(start: float, rows: int, samples: int) -> Step:
    return Step(start, 0.1, rows, samples, (5,) * samples)


def test_steps_last_until_the_next() -> None:
    assert Steps([step(1.0, 1, 1), step(1.5, 1, 1), step(3.5, 1, 1)]).seconds() == [0.5, 2.0]


def test_the_longest_stretch_of_decoding_counts() -> None:
    kinds = [(70, 1), (2, 2), (70, 1), (2, 2), (2, 2), (2, 2), (1, 1)]
    steps = Steps(step(float(time), *kind) for time, kind in enumerate(kinds))
    assert [found.start for found in steps.decoding(2)] == [3.0, 4.0, 5.0]
    assert steps.decoding(9) == []


def test_a_watched_engine_goes_on_as_before(llm: LLM) -> None:
    prompt = Workload(259).prompt(100)
    expected = TiercelSubject(llm).generate(prompt, 5).token_ids
    runner = llm.core.runner
    llm.forget()
    with watched(llm) as steps:
        assert TiercelSubject(llm).generate(prompt, 5).token_ids == expected
    assert llm.core.runner is runner
    assert [(s.rows, s.samples, s.contexts) for s in steps] == [(100, 1, (100,)), *((1, 1, (100 + n,)) for n in (1, 2, 3, 4))]
    assert all(s.executed > 0 for s in steps)


def test_without_a_program_everything_is_one_kernel(llm: LLM) -> None:
    work = ModelWork.of(llm)
    profile = profile_decode(llm, work, 70, 4, Workload(259))
    assert list(profile.native) == ["all kernels"]
    assert profile.context == 72.5
    assert profile.kernel_bytes == {"all kernels": work.step_bytes([72.5])}
    assert profile.native["all kernels"] > 0
    assert profile.seconds > 0


@pytest.fixture
def native(tmp_path: Path) -> Iterator[LLM]:
    path = write_random_model(tmp_path / "small", MODEL)
    with LLM(str(path), backend="cpu", dtype="int8", kv_memory="8MiB", kv_disk="off") as llm:
        yield llm


def test_the_kernels_of_a_program_are_told_apart(native: LLM) -> None:
    work = ModelWork.of(native)
    profile = profile_decode(native, work, 70, 6, Workload(320))
    model = compiled_model(native)
    assert model is not None
    assert model.seconds is None
    linear = {name: size for name, size in profile.kernel_bytes.items() if name.startswith("linear")}
    assert {"embedding", "rms_norm", "attention", "kv_write", *linear} <= set(profile.native)
    assert linear["linear 64 to 320, I8"] == HEAD + 4 * 320
    assert sum(linear.values()) == work.weight_bytes
    assert profile.kernel_bytes["attention"] == work.kv_bytes(73.5)
    assert all(seconds >= 0 for seconds in profile.native.values())
    assert 0 < profile.between < profile.seconds


def test_rows_add_up() -> None:
    profile = DecodeProfile(10.0, {"attention": 1.0, "rope": 2.0}, {"attention": 140.0}, 4.0)
    rows = {row["what"]: row for row in decode_rows(profile, WORK, limits(bandwidth=114.0, rate=1e9))}
    assert list(rows) == ["attention", "rope", "between native calls", "step", "machine limit"]
    assert {name: row["ms per step"] for name, row in rows.items()} == {
        "attention": 1e3,
        "rope": 2e3,
        "between native calls": 1e3,
        "step": 4e3,
        "machine limit": 1e4,
    }
    assert (rows["attention"]["GB/s"], rows["rope"]["GB/s"]) == (140.0 / 1e9, None)
    assert rows["rope"]["share, %"] == 50
