"""`tiercel bench` end to end on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.restart import Restart, RestartRun
from tiercel.bench.workload import Workload
from tiercel.cli.console import Waiting
from tiercel.config import EngineConfig

THROUGHPUT = ["throughput", "--requests", "1", "--prompt-tokens", "320", "--output-tokens", "1"]


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


def test_prefix_after_a_restart(tiercel: Tiercel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "restart.json", tmp_path / "kv"
    places: list[Path] = []

    def measured(config: EngineConfig, load: PrefixLoad, runs: int, workload: Workload, say: Waiting) -> list[RestartRun]:
        places.extend(folder.iterdir())
        assert (config.kv_disk, load, len(workload.prompt(9))) == (f"{places[0]}:{1 << 30}", PrefixLoad(256, 64), 9)
        restarts = [Restart(pid, 1.0, 0.25, 0.5, 0.25, 1.0) for pid in (2, 3, 4)]
        return [RestartRun(1, 8.0, 1000, tuple(restarts), "plan")] * runs

    monkeypatch.setattr("tiercel.bench.restart.measure_restart", measured)
    options = "--prefix-tokens", "256", "--runs", "2", "--kv-disk", f"{folder}:1GiB", "--json", str(file)
    shown = tiercel("bench", "prefix", "--restart", *options)
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert [row["what"] for row in report["tables"]["page cache cold"]][-1] == "TTFT, prefix on disk"
    assert report["settings"]["processes"] == "1 -> 2, 3, 4; 1 -> 2, 3, 4"
    assert len(places) == 1
    assert list(folder.iterdir()) == []


def test_write_behind(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file, trace, folder = tmp_path / "write.json", tmp_path / "trace.json", tmp_path / "kv"
    options = "--prompt-tokens", "1024", "--output-tokens", "8", "--runs", "1", "--kv-disk", str(folder)
    shown = tiercel("bench", "write-behind", "-m", str(tiny_model), *options, "--json", str(file), "--trace", str(trace))
    values = {row["what"]: row["value"] for row in json.loads(file.read_text())["tables"]["write-behind"]}
    assert shown.code == 0
    assert values["calls to the store on the engine's thread"]["values"] == [0]
    assert {event["name"] for event in json.loads(trace.read_text())["traceEvents"]} >= {"step", "execute", "put"}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("options", [["latency", "--prompt-tokens", "300"], ["prefix", "--prefix-tokens", "320"], THROUGHPUT])
def test_nothing_is_kept_on_disk_unless_asked_for(
    tiercel: Tiercel, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.delenv("TIERCEL_KV_DISK")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown = tiercel("bench", *options, "-m", str(tiny_model), "--runs", "1")
    assert (shown.code, list(tmp_path.iterdir())) == (0, [])
    shown = tiercel("bench", *options, "-m", str(tiny_model), "--runs", "1", "--kv-disk", "auto")
    assert (shown.code, [path.name for path in tmp_path.glob("*/*")]) == (0, ["kv"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--prompt-tokens", "many"], "--prompt-tokens: must be numbers of tokens"),
        (["latency", "--prompt-tokens", "0"], "--prompt-tokens: must be numbers of tokens"),
        (["latency", "--peer", "nobody"], "--peer: unknown peer 'nobody'"),
        (["throughput", "--shared-tokens", "200"], "--shared-tokens: 200 of 128"),
        (["prefix", "--prefix-tokens", "9999"], "prompt: has 10,063 tokens"),
        (["prefix", "--restart"], "--kv-disk: is off"),
        (["prefix", "--restart", "--peer", "transformers"], "--peer: keeps nothing"),
        (["write-behind"], "--kv-disk: is off"),
        (["write-behind", "--kv-disk", "/dev/null/kv"], "--kv-disk: cannot make a folder in /dev/null/kv"),
    ],
)
def test_wrong_settings(tiercel: Tiercel, tiny_model: Path, arguments: list[str], message: str) -> None:
    shown = tiercel("bench", *arguments, "-m", str(tiny_model))
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
