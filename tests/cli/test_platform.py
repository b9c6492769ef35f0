"""`tiercel platform`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel.ops.cpu import library, probe
from tiercel.platforms import detect


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "READ_BYTES", 1 << 22)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TIERCEL_NATIVE_LIBRARY", str(tmp_path / "absent.so"))
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def test_json_is_what_was_detected(tiercel: Tiercel) -> None:
    shown = tiercel("platform", "--json", "--no-measure")
    facts = json.loads(shown.out)
    assert shown.code == 0
    assert (facts["cores"], facts["memory_total"], tuple(facts["isa"])) == (
        detect().cores,
        detect().memory_total,
        detect().isa,
    )
    assert facts["versions"]["tiercel"] == "0.1.0"
    assert facts["native"]["kernels"] == library.best_level()
    assert facts["native"]["levels"][-1] == library.best_level()
    assert (facts["native"]["threads"], facts["native"]["missing"], facts["native"]["rates"]) == (detect().cores, None, None)


def test_rates_are_measured(tiercel: Tiercel) -> None:
    rates = json.loads(tiercel("platform", "--json").out)["native"]["rates"]
    assert rates["read_over"] == 1 << 22
    assert all(1e8 < rates[name] < 1e15 for name in ("read", "bf16", "int8"))


def test_settings_choose_kernels_and_threads(tiercel: Tiercel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_ISA", "avx2")
    monkeypatch.setenv("TIERCEL_THREADS", "3")
    native = json.loads(tiercel("platform", "--json").out)["native"]
    assert (native["kernels"], native["threads"]) == ("avx2", 3)
    assert native["rates"]["bf16"] > 0


def test_table(tiercel: Tiercel) -> None:
    shown = tiercel("platform")
    assert shown.code == 0
    assert detect().cpu.split()[0] in shown.out
    assert " GiB available" in shown.out
    assert "AVX2" in shown.out
    assert "GB/s" in shown.out
    assert "TFLOP/s" in shown.out
    assert f"native, {library.best_level()}" in shown.out


@pytest.mark.usefixtures("no_library")
def test_without_the_library(tiercel: Tiercel) -> None:
    """It says why, and numpy reads the memory."""
    native = json.loads(tiercel("platform", "--json").out)["native"]
    assert "absent.so" in native["missing"]
    assert (native["kernels"], native["levels"], native["rates"]["bf16"]) == (None, [], None)
    assert native["rates"]["read"] > 1e8
    shown = tiercel("platform", "--no-measure").out
    assert "cannot be loaded" in shown
    assert "GB/s" not in shown
