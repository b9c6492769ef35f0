"""What `tiercel run` needs to begin, seen from outside the process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel

PHASES = ["import", "open", "build", "prompt", "prefill"]

# Runs the command whose arguments follow, then tells which of these libraries were loaded.
RUN = """
import sys
from tiercel.cli.main import main
try:
    main()
except SystemExit as end:
    print("code", end.code or 0, file=sys.stderr)
dispensable = {"torch", "rich", "structlog", "prometheus_client", "zmq", "transformers", "huggingface_hub", "llguidance"}
print("loaded", sorted(dispensable & sys.modules.keys()), file=sys.stderr)
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ | environment)


@pytest.fixture
def without_torch(tmp_path: Path) -> str:
    """A PYTHONPATH on which torch is broken."""
    (tmp_path / "blocked" / "torch").mkdir(parents=True)
    (tmp_path / "blocked" / "torch" / "__init__.py").write_text("raise RuntimeError('nobody may import torch')")
    return os.pathsep.join([str(tmp_path / "blocked"), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_the_native_back_end_answers_without_torch(without_torch: str, tmp_path: Path) -> None:
    question = "What is the capital of France?"
    settings = (
        "--backend",
        "cpu",
        "--dtype",
        "bf16",
        "--max-tokens",
        "12",
        "--kv-memory",
        "64MiB",
        "--model-cache",
        str(tmp_path / "models"),
    )
    for _ in range(2):  # a first start, and one that finds what it left
        done = run(question, *settings, PYTHONPATH=without_torch)
        assert done.stdout == "The capital of France is Paris.\n", done.stderr
        assert done.stderr.splitlines()[-2:] == ["code 0", "loaded []"]


def test_torch_would_have_been_missed(without_torch: str) -> None:
    done = run("hello", "--backend", "reference", "--kv-memory", "64MiB", PYTHONPATH=without_torch)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody may import torch" in done.stderr


def test_no_library_is_loaded_that_an_answer_does_not_need(tiny_model: Path, tmp_path: Path) -> None:
    done = run(
        "hello", "-m", str(tiny_model), "--max-tokens", "2", "-v", "--backend", "reference", TIERCEL_KV_DISK=str(tmp_path)
    )
    assert done.stderr.splitlines()[-1] == "loaded ['torch']"


def test_timings_tell_where_the_time_to_the_first_token_went(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "hello", "--timings", "-m", str(tiny_model), "--max-tokens", "2")
    line = shown.err.splitlines()[-1]
    found = re.fullmatch(r"first token (\d+\.\d{3}) s after the start of the process = (.*)", line)
    assert found is not None
    parts = dict(part.split(" ") for part in found[2].split(" + "))
    assert list(parts) == PHASES
    assert sum(map(float, parts.values())) == pytest.approx(float(found[1]), abs=0.003)
    assert all(float(seconds) >= 0 for seconds in parts.values())


def test_the_start_of_the_process_counts(tiny_model: Path) -> None:
    slow = f"import time; time.sleep(1)\n{RUN}"
    command = [sys.executable, "-c", slow, "run", "hello", "--timings", "-m", str(tiny_model), "--max-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    found = re.search(r"= import (\d+\.\d+)", done.stderr)
    assert found is not None
    assert float(found[1]) > 1.0
