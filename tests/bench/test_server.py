"""`tiercel bench server`: a real server on a tiny model."""

from pathlib import Path

import pytest

from tests.support.model_files import write_directory
from tiercel.bench.measure import Summary
from tiercel.bench.server import measure_server, server_rows
from tiercel.config import EngineConfig
from tiercel.types import TiercelError


def test_tokens_are_timed_at_the_client_and_phases_in_the_engine(tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model")
    config = EngineConfig(model=str(model), kv_memory="1MiB", threads=1, backend="reference")  # type: ignore[arg-type]
    said: list[str] = []
    streamed = measure_server(config, [1, 2, 3], 8, 2, said.append)
    assert said == ["warming up", "run 1 of 2", "run 2 of 2"]
    for one in streamed:
        assert one.per_token > 0
        assert one.phases.keys() >= {"schedule", "prepare", "execute", "update"}
        assert min(one.phases.values()) >= 0
        assert one.between == one.per_token - one.phases["execute"]
    rows = {str(row["what"]).strip(): row["per token, ms"] for row in server_rows(streamed)}
    assert rows["between tokens, at the client"] == Summary.of([one.per_token * 1e3 for one in streamed])
    assert rows["engine: execute"] == Summary.of([one.phases["execute"] * 1e3 for one in streamed])
    assert list(rows)[-1] == "all but execute"


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(TiercelError, match="there is no file"):
        measure_server(EngineConfig(model=str(tmp_path / "none.gguf")), [1], 2, 1, lambda text: None)
