"""`tiercel model info`."""

import json
from pathlib import Path

from tests.cli.conftest import Tiercel


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
