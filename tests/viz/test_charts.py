"""Pictures are written, hold what was asked for, and are the same each time."""

import sys
from pathlib import Path

import pytest

from tiercel.types import InvalidInput
from tiercel.viz import Axes, Bars, Line, Point, draw_bars, draw_lines, require_matplotlib
from tiercel.viz.charts import COLORS

AXES = Axes("some title", "size", "seconds")
LINES = [
    Line("one", "a", [(128, Point(1.0, 0.9, 1.2)), (7000, Point(20.0, 18.0, 25.0))]),
    Line("two", "b", [(128, Point(2.0, 2.0, 2.0))]),
    Line("three", "a", [(128, Point(3.0, 2.0, 3.0))]),
]
BARS = [Bars("one", "a", [Point(1.0, 0.5, 2.0), None]), Bars("two", "b", [None, Point(3.0, 3.0, 3.0)])]


def test_lines_in_svg(tmp_path: Path) -> None:
    draw_lines(tmp_path / "a.svg", AXES, LINES)
    draw_lines(tmp_path / "b.svg", AXES, LINES)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert all(f">{words}<" in text for words in ("some title", "size", "seconds", "one", "two", "three", "128", "7,000"))
    assert COLORS[0] in text
    assert COLORS[1] in text
    assert COLORS[2] not in text


def test_bars_in_svg(tmp_path: Path) -> None:
    draw_bars(tmp_path / "a.svg", AXES, ["cold", "warm"], BARS)
    text = (tmp_path / "a.svg").read_text()
    assert all(f">{words}<" in text for words in ("some title", "cold", "warm", "one", "two"))
    draw_bars(tmp_path / "b.svg", AXES, ["cold", "warm"], BARS, log=True)
    assert (tmp_path / "b.svg").read_text() != text


def test_png(tmp_path: Path) -> None:
    draw_bars(tmp_path / "a.png", AXES, ["cold", "warm"], BARS)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_matplotlib_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidInput, match=r"plots: matplotlib is not installed.*tiercel\[plots\]"):
        require_matplotlib()
    with pytest.raises(InvalidInput, match="plots"):
        draw_lines(tmp_path / "a.svg", AXES, LINES)
