"""`tiercel bench quality` on a tiny model."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.bench.random_model import write_random_model
from tiercel.bench.shapes import SHAPES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(SHAPES["smollm2-135m"], vocab_size=400, num_layers=1)
    return write_random_model(tmp_path_factory.mktemp("models") / "small", shape)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"Some text to be read, and a little more of it. " * 20))
    return path


def test_formats_by_window(tiercel: Tiercel, model: Path, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    options = "--weights", "int8,int4", "--kv", "bfloat16", "--text", str(text), "--window", "16,64", "--tokens", "200"
    plots = "--plots", str(tmp_path / "new" / "plots")
    shown = tiercel("bench", "quality", "-m", str(model), *options, *plots, "--json", str(file))
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert list(report["tables"]) == ["12 windows of 16 tokens", "3 windows of 64 tokens"]
    for rows in report["tables"].values():
        assert [(row["weights"], row["KV"]) for row in rows] == [(name, "bfloat16") for name in ("bf16", "int8", "int4")]
        assert [row["change, %"] == 0 for row in rows] == [True, False, False]
    assert report["settings"]["text"] == str(text)
    pictures = [path.read_text() for path in (tmp_path / "new" / "plots").iterdir()]
    assert len(pictures) == 2
    assert all("<svg" in picture and "int8 weights" in picture for picture in pictures)
    assert report["settings"]["bf16 weights are made of"] == "BF16"


def test_held_against_float32(tiercel: Tiercel, model: Path, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    options = "--weights", "bf16", "--kv", "bfloat16", "--baseline", "float32", "--text", str(text), "--tokens", "40"
    shown = tiercel("bench", "quality", "-m", str(model), *options, "--json", str(file))
    ((name, rows),) = json.loads(file.read_text())["tables"].items()
    assert (shown.code, name) == (0, "1 windows of 40 tokens")
    assert [row["weights"] for row in rows] == ["float32", "bf16"]
    assert rows[1]["mean KL, nats"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "float32"], "--weights: must be some of bf16"),
        (["--kv", "fp4"], "--kv: must be some of bfloat16, int8"),
        (["--baseline", "int8"], "--baseline: must be bf16 or float32"),
        (["--window", "0"], "--window: must be numbers above 0"),
        (["--window", "1000000"], "--window: the model was made for"),
        (["--text", "/no/such/file"], "--text: cannot read /no/such/file: No such file"),
    ],
)
def test_wrong_settings(tiercel: Tiercel, model: Path, arguments: list[str], message: str) -> None:
    shown = tiercel("bench", "quality", "-m", str(model), *arguments)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
