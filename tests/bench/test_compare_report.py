"""Tables, ratios and pictures of a comparison."""

from pathlib import Path

import pytest

from tiercel.bench.compare import Comparison
from tiercel.bench.compare_report import compare_tables, draw_comparison
from tiercel.bench.measure import Summary
from tiercel.bench.peers.installed import ENTRIES, Contender

CONTENDERS = [Contender(entry, "", "") for entry in ENTRIES]


@pytest.fixture
def results() -> Comparison:
    results = Comparison()
    for who, times in {"tiercel bf16": (1.0, 3.0), "tiercel int8": (0.5,), "vllm": (4.0, 8.0), "openvino int8": (3.0,)}.items():
        for seconds in times:
            results.add("ttft", 128, who, seconds)
            results.add("ttft", 7000, who, 50 * seconds)
            results.add("batch", 16, who, 100 / seconds)
    for who, states in {"tiercel bf16": (5.0, 0.5, 1.0), "vllm": (6.0, 0.75), "transformers": (8.0,)}.items():
        for at, seconds in zip(("cold", "warm", "after a restart"), states, strict=False):
            results.add("prefix", at, who, seconds)
    results.add("memory", "after all work", "vllm", 5e9)
    results.add("memory", "at the first token", "vllm", 4e9)
    results.remarks.append(("llamacpp Q4_1", "not installed"))
    return results


WORKS = ["ttft", "batch", "prefix", "memory"]


def test_a_table_for_each_work(results: Comparison) -> None:
    tables = compare_tables(results, CONTENDERS, WORKS)
    *works, ratios, missing = tables
    assert [title.split(",")[0] for title in works] == [
        "time to first token",
        "output tokens/s",
        "shared prefix and new tokens: time to first token",
        "peak memory",
    ]
    assert (ratios, missing) == ("tiercel against the best peer, times better", "not measured")
    first, _, third, _ = tables[works[0]]
    assert first == {
        "who": "tiercel bf16",
        "weights / activations / KV": "bf16 / bf16 / bf16",
        "128": Summary((1.0, 3.0)),
        "7,000": Summary((50.0, 150.0)),
    }
    assert (third["who"], third["weights / activations / KV"]) == ("vllm", "bf16 / bf16 / bf16")
    assert tables[works[3]] == [
        {
            "who": "vllm",
            "weights / activations / KV": "bf16 / bf16 / bf16",
            "at the first token": Summary.once(4000.0),
            "after all work": Summary.once(5000.0),
        }
    ]
    assert tables[missing] == [{"who": "llamacpp Q4_1", "why": "not installed"}]


def test_what_is_not_kept_is_recomputed(results: Comparison) -> None:
    rows = compare_tables(results, CONTENDERS, ["prefix"])["shared prefix and new tokens: time to first token, s"]
    states = ["cold", "warm", "after a restart"]
    assert [(row["who"], *(row[at].median for at in states), row["KV kept in"]) for row in rows] == [  # type: ignore[union-attr]
        ("tiercel bf16", 5.0, 0.5, 1.0, "disk"),
        ("vllm", 6.0, 0.75, 6.0, "memory; after a restart: recomputed"),
        ("transformers", 8.0, 8.0, 8.0, "nothing; warm and after a restart: recomputed"),
    ]


def test_ratios_are_times_better(results: Comparison) -> None:
    rows = compare_tables(results, CONTENDERS, WORKS)["tiercel against the best peer, times better"]
    by_what = {(row["what"], row["who"]): list(row.values())[2:] for row in rows}
    assert by_what["TTFT, s, 128", "tiercel bf16"] == ["vllm", 3.0, "openvino int8", 1.5]
    assert by_what["TTFT, s, 128", "tiercel int8"] == ["openvino int8", 6.0, "openvino int8", 6.0]
    best = (100 / 1.0 + 100 / 3.0) / 2
    assert by_what["output tokens/s, 16", "tiercel bf16"] == [
        "vllm",
        pytest.approx(best / 18.75),
        "openvino int8",
        pytest.approx(best / (100 / 3)),
    ]
    assert by_what["TTFT with a shared prefix, s, after a restart", "tiercel bf16"] == ["vllm", 6.0, "vllm", 6.0]
    assert not any(what.startswith("peak") for what, _ in by_what)


def test_alone_there_is_nothing_to_compare_with() -> None:
    results = Comparison()
    results.add("start", "to the first token", "tiercel int8", 0.5)
    results.add("start", "to the first token", "vllm", 40.0)
    (row,) = compare_tables(results, CONTENDERS, ["start"])["tiercel against the best peer, times better"]
    assert list(row.values())[2:] == ["", None, "vllm", 80.0]


def test_a_picture_for_each_work(results: Comparison, tmp_path: Path) -> None:
    results.add("start", "to the first token", "vllm", 40.0)
    files = draw_comparison(results, CONTENDERS, [*WORKS, "tpot", "start"], tmp_path / "new")
    assert [file.name for file in files] == ["ttft.svg", "batch.svg", "prefix.svg", "memory.svg", "start.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(file.name for file in files)
    assert all(file.read_text().startswith("<?xml") for file in files)
