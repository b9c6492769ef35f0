"""`tiercel bench compare` end to end: a tiny model, and transformers as the only peer."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.bench.random_model import write_random_model
from tiercel.bench.shapes import SHAPES


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """A folder with one peer, whose interpreter is this one."""
    python = tmp_path / "peers" / "venv-hf" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tmp_path / "peers"


def test_tables_pictures_and_json(tiercel: Tiercel, peers: Path, tmp_path: Path) -> None:
    file, plots = tmp_path / "compare.json", tmp_path / "plots"
    model = write_random_model(tmp_path / "small", replace(SHAPES["smollm2-135m"], vocab_size=400, num_layers=1))
    who = "--peers", str(peers), "-m", str(model), "--only", "bf16,transformers,vllm"
    what = "--work", "ttft,batch,start", "--prompt-tokens", "40,90", "--contexts", "40", "--requests", "2"
    shown = tiercel(
        "bench", "compare", *who, *what, "--runs", "1", "--threads", "1", "--json", str(file), "--plots", str(plots)
    )
    report = json.loads(file.read_text())
    assert shown.code == 0, shown.err
    *works, ratios, missing = report["tables"].values()
    assert [[row["who"] for row in rows] for rows in works] == [["tiercel bf16", "transformers"]] * 3
    assert [list(rows[0])[2:] for rows in works] == [["40", "90"], ["2"], ["to the first token"]]
    assert {row["best peer, same precision"] for row in ratios} == {"transformers"}
    assert missing == [{"who": "vllm", "why": missing[0]["why"]}]
    assert "not installed: no venv-vllm/bin/python" in missing[0]["why"]
    assert sorted(path.name for path in plots.iterdir()) == ["batch.svg", "start.svg", "ttft.svg"]
    assert "bf16 / bf16 / bf16" in shown.out
    assert (report["settings"]["threads"], report["settings"]["GiB for KV"]) == (1, 1)


def test_matplotlib_is_looked_for_first(
    tiercel: Tiercel, tiny_model: Path, peers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = "--peers", str(peers), "-m", str(tiny_model), "--plots", str(tmp_path / "plots")
    shown = tiercel("bench", "compare", *options)
    assert shown.code == 2
    assert "--plots: matplotlib is not installed" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nobody"], "--only: 'nobody' is part of none of the names tiercel bf16, "),
        (["--only", "vllm"], "--only: none of these is installed: vllm"),
        (["--work", "everything"], "--work: must be some of ttft, tpot, batch, prefix, start, memory"),
        (["--requests", "0"], "--requests: must be numbers above 0"),
        (["--model", "/nowhere"], "--model: there is no model in /nowhere"),
        (["--peers", "/nowhere"], "--peers: there is no peer in /nowhere"),
    ],
)
def test_wrong_settings(tiercel: Tiercel, tiny_model: Path, peers: Path, options: list[str], message: str) -> None:
    shown = tiercel("bench", "compare", "--peers", str(peers), "-m", str(tiny_model), *options)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
