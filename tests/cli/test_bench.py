"""`tiercel bench` end to end on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.restart import Restart, RestartRun
from tiercel.bench.shapes import SHAPES
from tiercel.bench.workload import Workload
from tiercel.cli.console import Waiting
from tiercel.config import EngineConfig


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.bench.limits.READ_BYTES", 16 << 20)


THROUGHPUT = ["throughput", "--requests", "1", "--prompt-tokens", "320", "--output-tokens", "1"]


def test_latency(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    options = "--prompt-tokens", "10,70", "--output-tokens", "3", "--runs", "2", "--peer", "transformers", "--json", str(file)
    shown = tiercel("bench", "latency", "-m", str(tiny_model), *options)
    rows = json.loads(file.read_text())["tables"]["latency"]
    assert shown.code == 0
    assert [(row["prompt tokens"], row["who"]) for row in rows] == [
        (length, who) for length in (10, 70) for who in ("tiercel", "transformers", "machine limit", "the same read from cache")
    ]
    assert [len(row["TPOT, ms"]["values"]) for row in rows[:4]] == [2, 2, 1, 1]
    assert "TPOT, ms" in shown.out


def test_latency_by_step(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    options = "--prompt-tokens", "70,10", "--output-tokens", "3", "--runs", "2", "--profile", "--same-prompts"
    shown = tiercel("bench", "latency", "-m", str(tiny_model), *options, "--json", str(file))
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert list(report["tables"]) == ["latency", "what context adds", *(f"a decoding step, context {n}" for n in (70, 10))]
    assert "TTFT, s" not in report["tables"]["latency"][0]
    assert [row["what"] for row in report["tables"]["a decoding step, context 10"]][-2:] == ["step", "machine limit"]
    assert report["settings"]["GB/s, float32 product"] > 0


def test_a_shape_with_random_weights(tiercel: Tiercel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "latency.json"
    monkeypatch.setitem(SHAPES, "small", replace(SHAPES["smollm2-135m"], vocab_size=400, num_layers=1))
    options = "--shape", "small", "--prompt-tokens", "10", "--output-tokens", "2", "--runs", "1", "--json", str(file)
    shown = tiercel("bench", "latency", *options)
    assert shown.code == 0
    assert json.loads(file.read_text())["settings"]["model"] == "small"


def test_throughput(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    options = "--requests", "1,4", "--prompt-tokens", "130", "--shared-tokens", "64", "--output-tokens", "3", "--profile"
    shown = tiercel("bench", "throughput", "-m", str(tiny_model), *options, "--runs", "1", "--json", str(file))
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert [row["requests"] for row in report["tables"]["throughput"]] == [1, 4]
    assert report["settings"]["command"].startswith("tiercel bench throughput")
    assert list(report["tables"]) == ["throughput", "a decoding step of 1", "a decoding step of 4"]


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


def test_kernels(tiercel: Tiercel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kernels.json"
    monkeypatch.setitem(SHAPES, "small", replace(SHAPES["smollm2-135m"], vocab_size=400, num_layers=1))
    monkeypatch.setattr("tiercel.bench.kernels.MEMORY", 16 << 20)
    monkeypatch.setattr("tiercel.bench.attention.BEFORE", (0,))
    options = (
        "--shape",
        "small",
        "--formats",
        "BF16,Q4_1",
        "--rows",
        "1,3",
        "--contexts",
        "64",
        "--isa",
        "avx2",
        "--threads",
        "1",
    )
    shown = tiercel("bench", "kernels", *options, "--runs", "1", "--json", str(file))
    report = json.loads(file.read_text())
    assert shown.code == 0
    assert (report["settings"]["isa"], report["settings"]["threads"]) == ("avx2", 1)
    products, attention, rowwise, copies = 5 * 2 * 2, 2, 4 * 2, 3
    assert len(report["tables"]["kernels"]) == products + attention + rowwise + copies
    assert [(row["format"], row["rows"]) for row in report["tables"]["the products of a step"]] == [
        (format, rows) for format in ("BF16", "Q4_1") for rows in (1, 3)
    ]
    assert [(row["requests"], row["rows"]) for row in report["tables"]["attention"]] == [(1, 512), (64, 1)]


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
        (["--shape", "gpt-5"], "--shape: must be some of qwen2.5-0.5b"),
        (["--formats", "F32"], "--formats: must be some of BF16"),
        (["--isa", "neon"], "--isa: must be auto, avx2"),
        (["--rows", "0"], "--rows: must be numbers above 0"),
    ],
)
def test_wrong_kernels(tiercel: Tiercel, arguments: list[str], message: str) -> None:
    shown = tiercel("bench", "kernels", *arguments)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--prompt-tokens", "many"], "--prompt-tokens: must be numbers above 0"),
        (["latency", "--prompt-tokens", "0"], "--prompt-tokens: must be numbers above 0"),
        (["latency", "--peer", "nobody"], "--peer: unknown peer 'nobody'"),
        (["latency", "--peer", "vllm=/nowhere:/nowhere"], "--peer: /nowhere of"),
        (["latency", "--shape", "gpt-5"], "--shape: must be one of"),
        (["throughput", "--requests", "1,"], "--requests: must be numbers above 0"),
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
