"""The comparison, with real processes whose times are known, and with a tiny model."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tiercel.bench import compare as module
from tiercel.bench.compare import WORKS, CompareLoad, Comparison, Figure, Rules, compare, kv_gib
from tiercel.bench.peers.external import ExternalPeer, serve_command
from tiercel.bench.peers.installed import Contender, Entry, Keeps, Precision, find_installed
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.random_model import write_random_model
from tiercel.bench.shapes import SHAPES
from tiercel.bench.workload import Workload

LOAD = CompareLoad((10, 30), (30, 50), 5, (2, 4), 8, 6, PrefixLoad(20, 4))
RULES = Rules(runs=2, patience=100.0, threads=1, kv_memory=1)
SCRIPT = """
import json, sys, time
class Peer:
    def __init__(self, program, model, threads, log="", pace=0.0, **rest):
        self.log, self.pace = log, pace
        self.note("start", rest)
    def note(self, *said):
        with open(self.log, "a") as file:
            print(json.dumps(said), file=file)
    def generate(self, prompts, num_tokens):
        if num_tokens == 5 and self.pace < 0:
            sys.exit("it is broken")
        self.note(num_tokens, *prompts)
        time.sleep(abs(self.pace) * sum(map(len, prompts)))
        first = float(sum(map(len, prompts)))
        return [(first, first + num_tokens / 2 - 0.5)] * len(prompts)
    def keep(self):
        self.note("keep")
    def recall(self):
        self.note("recall")
"""


@dataclass(frozen=True)
class Scripted(Contender):
    """Runs SCRIPT."""

    def start(self, threads: int, options: Mapping[str, object]) -> ExternalPeer:
        own = {**options, **self.options}
        return ExternalPeer(self.name, serve_command(sys.executable, self.program, "", self.model, threads, own))


def scripted(folder: Path, name: str, pace: float = 0.0, keeps: Keeps = "memory", peer: str = "someone") -> Scripted:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    entry = Entry(name, peer, "bf16", Precision("bf16", "bf16", "bf16"), keeps, "", "")
    return Scripted(entry, str(script), "", {"log": str(folder / name), "pace": pace})


def run(contenders: list[Scripted], *works: str, rules: Rules = RULES) -> tuple[Comparison, list[str]]:
    said: list[str] = []
    return compare(contenders, works, LOAD, rules, Workload(1000), said.append), said


def log(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def test_everybody_gets_the_same_prompts_in_turns(tmp_path: Path) -> None:
    results, said = run([scripted(tmp_path, "a"), scripted(tmp_path, "b")], "ttft", "tpot", "batch")
    assert results.remarks == []
    assert {figure: dict(by) for figure, by in results.figures.items()} == {
        Figure("ttft", "10"): {"a": [10.0] * 2, "b": [10.0] * 2},
        Figure("ttft", "30"): {"a": [30.0] * 2, "b": [30.0] * 2},
        Figure("tpot", "30"): {"a": [500.0] * 2, "b": [500.0] * 2},
        Figure("tpot", "50"): {"a": [500.0] * 2, "b": [500.0] * 2},
        Figure("batch", "2"): {"a": [12 / 18.5] * 2, "b": [12 / 18.5] * 2},
        Figure("batch", "4"): {"a": [24 / 34.5] * 2, "b": [24 / 34.5] * 2},
    }
    turns = [f"{label}, run {n} of 2: {who}" for label in ("10 tokens", "4 requests") for n in (1, 2) for who in "ab"]
    assert [line for line in said if line in turns] == turns
    ours, theirs = log(tmp_path, "a"), log(tmp_path, "b")
    warm_ups = 2 + len(module.WARM_UPS)
    assert ours[warm_ups:] == theirs[warm_ups:]
    assert len(set(ours)) == len(ours)
    assert [line.count("[") - 1 for line in ours[warm_ups:]] == [1, 1, 1, 1, 1, 1, 2, 2, 4, 4]


def test_a_prefix_is_met_again_where_it_is_kept(tmp_path: Path) -> None:
    everywhere: tuple[Keeps, ...] = ("nothing", "memory", "disk")
    rules = Rules(runs=1, patience=100.0, threads=1, kv_memory=1)
    results, _ = run([scripted(tmp_path, keeps, keeps=keeps) for keeps in everywhere], "prefix", rules=rules)
    states = {figure.at: list(by) for figure, by in results.figures.items()}
    assert states == {"cold": ["nothing", "memory", "disk"], "warm": ["memory", "disk"], "after a restart": ["disk"]}
    *_, cold, warm, keep, start, opening, recall, later = log(tmp_path, "disk")
    assert (keep, recall) == ('["keep"]', '["recall"]')
    assert start.startswith('["start"')
    prefixes = {line.split(", ", 21)[1:21].__str__() for line in (cold, warm, later)}
    assert len(prefixes) == 1
    assert len({cold, warm, later, opening}) == 4


def test_tiercel_has_a_store_for_the_prefix_only(tmp_path: Path) -> None:
    rules = Rules(runs=1, patience=100.0, threads=1, kv_memory=3)
    run([scripted(tmp_path, "own", keeps="disk", peer="tiercel")], "prefix", "start", rules=rules)
    starts = [line for line in log(tmp_path, "own") if line.startswith('["start"')]
    assert ['"kv_disk": "off"' in line for line in starts] == [True, True, False, False, True]
    assert starts[2] == starts[3]
    assert all('"kv_memory": "3GiB"' in line for line in starts)


def test_starts_and_memory(tmp_path: Path) -> None:
    results, _ = run([scripted(tmp_path, "a")], "start", "memory")
    assert len(results.figures[Figure("start", "to the first token")]["a"]) == 2
    (first,), (peak,) = (results.figures[Figure("memory", at)]["a"] for at in ("at the first token", "after all work"))
    assert 1 << 20 < first <= peak
    assert min(results.figures[Figure("start", "to the first token")]["a"]) > 0.01


def test_who_starts_slowly_starts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_START", 0.01)
    results, _ = run([scripted(tmp_path, "a")], "start")
    assert len(results.figures[Figure("start", "to the first token")]["a"]) == 1
    assert sum(line.startswith('["start"') for line in log(tmp_path, "a")) == 1


def test_what_is_slow_is_measured_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_SECONDS", 0.3)
    monkeypatch.setattr(module, "WARM_UPS", ())
    rules = Rules(runs=3, patience=0.45, threads=1, kv_memory=1)
    results, _ = run([scripted(tmp_path, "quick"), scripted(tmp_path, "slow", pace=0.01)], "ttft", "tpot", rules=rules)
    counts = {figure.at: {who: len(runs) for who, runs in by.items()} for figure, by in results.figures.items()}
    assert counts == {"10": {"quick": 3, "slow": 2}, "30": {"quick": 3, "slow": 1}, "50": {"quick": 3}}
    ((who, why),) = results.remarks
    assert who == "slow"
    assert why.startswith("50 tokens: left out, since it would take more than")


def test_who_fails_is_left_out_from_then_on(tmp_path: Path) -> None:
    results, _ = run([scripted(tmp_path, "broken", pace=-1e-6), scripted(tmp_path, "sound")], "ttft", "tpot")
    assert list(results.figures[Figure("ttft", "10")]) == ["broken", "sound"]
    assert list(results.figures[Figure("ttft", "30")]) == ["sound"]
    assert results.remarks == [("broken", "30 tokens: broken ended with code 1: it is broken")]


def test_an_interrupt_leaves_what_there_is(tmp_path: Path) -> None:
    fatal = SCRIPT.replace('sys.exit("it is broken")', "os.kill(os.getppid(), signal.SIGINT)").replace(
        "import json", "import os, signal, json"
    )
    contenders = [scripted(tmp_path, "sound"), scripted(tmp_path, "fatal", pace=-1e-6)]
    (tmp_path / "script.py").write_text(fatal)
    results, _ = run(contenders, "ttft", "tpot")
    assert list(results.figures[Figure("ttft", "10")]) == ["sound", "fatal"]
    assert list(results.figures[Figure("ttft", "30")]) == ["sound"]
    assert results.remarks == [("everybody", "interrupted: what would have come next is missing")]


def test_who_does_not_start_is_told(tmp_path: Path) -> None:
    nowhere = scripted(tmp_path / "..", "nowhere")
    broken = Scripted(nowhere.entry, str(tmp_path / "none.py"), "", {})
    results, _ = run([broken], "ttft")
    assert results.figures == {}
    ((who, why),) = results.remarks
    assert who == "nowhere"
    assert "none.py" in why


def test_memory_for_keys_and_values(tiny_model: Path) -> None:
    assert kv_gib(tiny_model, CompareLoad()) == 1
    token_bytes = 2 * 2 * 2 * 2 * 8  # keys and values, bf16, layers, heads, channels
    assert kv_gib(tiny_model, CompareLoad(requests=((1 << 30) // 384 // token_bytes,))) == 2
    assert CompareLoad(prompt_tokens=(1,)).most_tokens == 64 * 384
    assert CompareLoad(prompt_tokens=(50_000,)).most_tokens == 50_064


def test_with_a_model(tmp_path: Path) -> None:
    model = write_random_model(tmp_path / "small", replace(SHAPES["smollm2-135m"], vocab_size=400, num_layers=1))
    python = tmp_path / "venv-hf" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    wanted = "tiercel bf16", "transformers"
    contenders = [each for each in find_installed(tmp_path, str(model)).contenders if each.name in wanted]
    load = CompareLoad((40,), (70,), 4, (3,), 40, 3, PrefixLoad(256, 64))
    rules = Rules(runs=1, patience=100.0, threads=1, kv_memory=1)
    results = compare(contenders, WORKS, load, rules, Workload(400), lambda text: None)
    assert results.remarks == []
    assert {work for work, _ in results.figures} == set(WORKS)
    values = {figure: {who: runs[0] for who, runs in by.items()} for figure, by in results.figures.items()}
    assert all(value > 0 for by in values.values() for value in by.values())
    restarted = values.pop(Figure("prefix", "after a restart"))
    assert list(restarted) == ["tiercel bf16"]
    assert list(values.pop(Figure("prefix", "warm"))) == ["tiercel bf16"]
    assert all(tuple(by) == wanted for by in values.values())
