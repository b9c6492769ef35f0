"""Pictures of qualities made by hand."""

from pathlib import Path

import numpy as np
import pytest

from tiercel.bench import quality_plots
from tiercel.bench.quality import BF16, Formats, Quality
from tiercel.bench.quality_plots import draw_quality
from tiercel.viz import Axes, Bars

INT8, INT4 = Formats("int8", "int8"), Formats("bf16", "int4")


def quality(surprise: float, divergence: float) -> Quality:
    shape = 6, 4
    return Quality(np.ones(shape, np.bool_), np.full(shape, divergence), np.full(shape, np.log(surprise)))


def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: dict[str, tuple[list[str], list[Bars]]] = {}

    def draw(file: Path, axes: Axes, columns: list[str], bars: list[Bars]) -> None:
        drawn[file.name] = columns, bars

    monkeypatch.setattr(quality_plots, "draw_bars", draw)
    measured = {length: {BF16: quality(10, 0), INT8: quality(10.1, 0.01), INT4: quality(11, 0.2)} for length in (512, 2048)}
    draw_quality(tmp_path, measured)
    assert [columns for columns, _ in drawn.values()] == [["512", "2,048"]] * 2
    assert [[bar.name for bar in bars] for _, bars in drawn.values()] == [
        ["int8 weights, int8 KV", "bf16 weights, int4 KV"]
    ] * 2
    changes, divergences = ([bar.points[0].value for bar in bars if bar.points[0]] for _, bars in drawn.values())
    assert changes == pytest.approx([1, 10])
    assert divergences == pytest.approx([0.01, 0.2])


def test_a_baseline_alone_is_not_drawn(tmp_path: Path) -> None:
    assert draw_quality(tmp_path / "plots", {512: {BF16: quality(10, 0)}}) == []
    assert not (tmp_path / "plots").exists()
