"""`tiercel model info` and `tiercel model convert`."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tests.support.model_files import write_tiny_gguf


def test_the_default_model(tiercel: Tiercel) -> None:
    shown = tiercel("model", "info", "--json")
    facts = json.loads(shown.out)
    assert shown.code == 0
    assert (facts["architecture"], facts["parameters"], facts["chat template"]) == ("llama", "134,515,008", "yes")
    assert facts["attention"] == "9 query heads, 3 KV heads of 64"
    assert facts["KV"] == "45.0 KiB per token at float32"
    assert facts["weights"].startswith("92.1 MiB in the file; Q4_1 78.9 %, Q8_0 21 %")
    assert len(facts["fingerprint"]) == 64


def test_a_directory(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("model", "info", "-m", str(tiny_model))
    assert shown.code == 0
    assert "model " in shown.out
    assert "4,096 tokens; rope base 10000" in shown.out
    assert "F32 100 %" in shown.out


def test_an_unknown_model(tiercel: Tiercel) -> None:
    shown = tiercel("model", "info", "--model", "nonsense")
    assert (shown.code, shown.out) == (1, "")
    assert "unknown model 'nonsense'" in shown.err


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a model."""
    monkeypatch.chdir(tmp_path)
    write_tiny_gguf(tmp_path / "m.gguf")
    return tmp_path


def test_conversion_keeps_the_fingerprint(tiercel: Tiercel, in_folder: Path) -> None:
    done = tiercel("model", "convert", "m.gguf", "copy")
    shown = [json.loads(tiercel("model", "info", "--json", "-m", model).out) for model in ("m.gguf", "copy")]
    fingerprint = shown[0]["fingerprint"]
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "copy: 21 tensors as float32, 137.4 KiB",
        f"KV computed with m.gguf is reused by it, and the other way round (fingerprint {fingerprint})",
    ]
    differing = {name for name in shown[0] if shown[0][name] != shown[1][name]}
    assert differing == {"name", "path"}


def test_conversions_replace_one_another_if_told_to(tiercel: Tiercel, in_folder: Path) -> None:
    assert tiercel("model", "convert", "m.gguf", "copy").code == 0
    again = tiercel("model", "convert", "m.gguf", "copy")
    assert (again.code, again.out) == (2, "")
    assert again.err == f"Error: destination: {in_folder / 'copy'} holds a model already; --force replaces it\n"
    assert tiercel("model", "convert", "m.gguf", "copy", "--force").code == 0
    assert sorted(os.listdir()) == ["copy", "m.gguf"]


def test_nothing_to_convert(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    shown = tiercel("model", "convert", str(tiny_model), str(tmp_path / "copy"))
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == f"Error: source: {tiny_model} holds safetensors already; what is converted is a .gguf file\n"
    assert tiercel("model", "convert", "nonsense", str(tmp_path / "copy")).err.startswith("Error: unknown model 'nonsense'")
    assert os.listdir(tmp_path) == []
