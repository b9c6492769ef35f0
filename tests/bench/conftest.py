"""A tiny model for the benchmarks to run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.model_files import write_directory
from tiercel import LLM


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_directory(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=2048)


@pytest.fixture
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(str(tiny_model), kv_memory="8MiB") as engine:
        yield engine
