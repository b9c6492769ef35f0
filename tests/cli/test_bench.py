"""`tiercel bench` end to end on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel


def test_latency(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    options = "--prompt-tokens", "10,70", "--output-tokens", "3", "--runs", "2", "--peer", "transformers", "--json", str(file)
    shown = tiercel("bench", "latency", "-m", str(tiny_model), *options)
    rows = json.loads(file.read_text())["tables"]["latency"]
    assert shown.code == 0
    assert [(row["prompt tokens"], row["who"]) for row in rows] == [
        (length, who) for length in (10, 70) for who in ("tiercel", "transformers", "machine limit")
    ]
    assert [len(row["TTFT, s"]["values"]) for row in rows[:3]] == [2, 2, 1]
    assert "TPOT, ms" in shown.out


def test_throughput(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    options = "--requests", "4", "--prompt-tokens", "130", "--shared-tokens", "64", "--output-tokens", "3", "--profile"
    shown = tiercel("bench", "throughput", "-m", str(tiny_model), *options, "--runs", "1", "--json", str(file))
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert report["settings"]["requests"] == 4
    assert report["settings"]["command"].startswith("tiercel bench throughput")
    assert list(report["tables"]) == ["throughput", "a decoding step"]


def test_prefix(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "prefix.json"
    options = "--prefix-tokens", "128", "--new-tokens", "64", "--runs", "2", "--json", str(file)
    shown = tiercel("bench", "prefix", "-m", str(tiny_model), *options)
    rows = json.loads(file.read_text())["tables"]["prefix reuse"]
    assert shown.code == 0
    assert [row["what"] for row in rows] == ["cold", "warm", "new tokens alone"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--prompt-tokens", "many"], "--prompt-tokens: must be numbers of tokens"),
        (["latency", "--prompt-tokens", "0"], "--prompt-tokens: must be numbers of tokens"),
        (["latency", "--peer", "nobody"], "--peer: unknown peer 'nobody'"),
        (["throughput", "--shared-tokens", "200"], "--shared-tokens: 200 of 128"),
        (["prefix", "--prefix-tokens", "9999"], "prompt: has 10,063 tokens"),
    ],
)
def test_wrong_settings(tiercel: Tiercel, tiny_model: Path, arguments: list[str], message: str) -> None:
    shown = tiercel("bench", *arguments, "-m", str(tiny_model))
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
