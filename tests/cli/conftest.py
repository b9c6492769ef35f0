"""The command line in this process, on a tiny model."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.model_files import write_directory
from tiercel.cli.main import main


class Finished(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def reused(self) -> list[int]:
        """Prompt tokens that each answer reused, from the lines of figures."""
        found = re.findall(r"[\d,]+ prompt tokens, ([\d,]+) reused", self.err)
        return [int(number.replace(",", "")) for number in found]


Tiercel = Callable[..., Finished]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, byte tokens, room for 4,096 of them."""
    return write_directory(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=4096)


@pytest.fixture
def tiercel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tiercel:
    """Runs `tiercel ARGUMENTS` as the entry point does, with `stdin` as its standard input."""

    monkeypatch.setattr("gc.freeze", lambda: None)  # a process that goes on needs its garbage collected

    def run(*arguments: str, stdin: str = "") -> Finished:
        monkeypatch.setattr(sys, "argv", ["tiercel", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Finished(int(stopped.value.code or 0), captured.out, captured.err)

    return run
