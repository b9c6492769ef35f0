"""`tiercel bench start`: real processes on a tiny model."""

from pathlib import Path

import pytest

from tests.support.model_files import smollm2_path, write_directory
from tiercel.bench.measure import Summary
from tiercel.bench.start import measure_starts, prompt_of, start_rows
from tiercel.config import EngineConfig
from tiercel.models.checkpoint import open_checkpoint
from tiercel.types import InvalidInput, TiercelError


def test_starts_are_timed_from_outside_and_in_their_parts(tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model")
    said: list[str] = []
    config = EngineConfig(model=str(model), kv_memory="1MiB", threads=1, backend="reference")  # type: ignore[arg-type]
    starts = measure_starts(config, "hello", 1, 2, said.append)
    assert (len(starts.cold), len(starts.warm)) == (1, 2)
    for start in (*starts.cold, *starts.warm):
        assert list(start.phases) == ["import", "open", "build", "prompt", "prefill"]
        assert min(start.phases.values()) >= 0
        assert sum(start.phases.values()) == pytest.approx(start.first, abs=0.25)
        assert start.first <= start.end
    assert "KV 1.0 MiB" in starts.plan
    assert said == ["run 1 of 1: first start", "run 1 of 1: start 2", "run 1 of 1: start 3"]
    rows = start_rows(starts)
    assert [str(row["seconds"]).strip() for row in rows] == ["to the first token", *starts.cold[0].phases, "to the end"]
    for row in rows:
        first, later = row["first start"], row["later start"]
        assert isinstance(first, Summary)
        assert isinstance(later, Summary)
        assert (len(first.values), len(later.values)) == (1, 2)
    assert rows[2]["first start"] == Summary.once(starts.cold[0].phases["open"])


def test_a_start_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(TiercelError, match="there is no file"):
        measure_starts(EngineConfig(model=str(tmp_path / "none.gguf")), "hello", 1, 1, lambda text: None)


def test_prompts_have_the_length_asked_for(tmp_path: Path) -> None:
    for path in (smollm2_path(), write_directory(tmp_path / "model")):
        tokenizer = open_checkpoint(path).tokenizer
        for count in (1, 16, 300):
            assert len(tokenizer.encode(prompt_of(tokenizer, count))) == count


def test_a_length_that_cannot_be_is_refused(tmp_path: Path) -> None:
    tokenizer = open_checkpoint(write_directory(tmp_path / "model")).tokenizer
    tokenizer.encode = lambda text: [1, 2, 3]  # type: ignore[method-assign, assignment]
    with pytest.raises(InvalidInput, match="no text of 2 tokens"):
        prompt_of(tokenizer, 2)
