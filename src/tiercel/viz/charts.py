"""Charts of medians with their extremes, as SVG or PNG files by the name's ending."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Canvas
    from matplotlib.figure import Figure

COLORS = ("#1b6ec2", "#d1642b", "#2f8f5b", "#8a4fa8", "#8c6d31", "#c23b5a", "#50717b")
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
HATCHES = ("", "//", "..", "xx")
SIZE = 9.0, 4.8  # inches


class Axes(NamedTuple):
    """What a chart shows. y holds what is measured, with its unit; x is empty where the columns' names say enough."""

    title: str
    x: str
    y: str


class Point(NamedTuple):
    """A median and its extremes."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """Values by x, ascending. Those of one group have one colour."""

    name: str
    group: str
    points: Sequence[tuple[float, Point]]


class Bars(NamedTuple):
    """One value for each column; None = not measured. Those of one group have one colour."""

    name: str
    group: str
    points: Sequence[Point | None]


def require_matplotlib() -> None:
    """For those who would measure for long before they draw. Raises InvalidInput without matplotlib."""
    _canvas(Axes("", "", ""))


def draw_lines(file: Path, axes: Axes, lines: Sequence[Line]) -> None:
    """Both scales are logarithmic. Raises InvalidInput without matplotlib, OSError."""
    figure, canvas = _canvas(axes)
    for line, (color, nth) in zip(lines, _looks([line.group for line in lines]), strict=True):
        xs, ys = [x for x, _ in line.points], [point for _, point in line.points]
        style: dict[str, Any] = {"color": color, "linestyle": STYLES[nth % len(STYLES)], "marker": MARKERS[nth % len(MARKERS)]}
        canvas.errorbar(xs, [y.value for y in ys], yerr=_errors(ys), label=line.name, capsize=2, markersize=4, **style)
    canvas.set_xscale("log")
    canvas.set_yscale("log")
    ticks = sorted({x for line in lines for x, _ in line.points})
    canvas.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    canvas.minorticks_off()
    _finish(figure, canvas, file)


def draw_bars(file: Path, axes: Axes, columns: Sequence[str], bars: Sequence[Bars], *, log: bool = False) -> None:
    """Groups of bars side by side. Raises InvalidInput without matplotlib, OSError."""
    figure, canvas = _canvas(axes)
    width = 0.85 / max(1, len(bars))
    for number, (each, (color, nth)) in enumerate(zip(bars, _looks([bar.group for bar in bars]), strict=True)):
        there = [(column, point) for column, point in enumerate(each.points) if point is not None]
        xs, ys = [column + (number - (len(bars) - 1) / 2) * width for column, _ in there], [point for _, point in there]
        style: dict[str, Any] = {"color": color, "hatch": HATCHES[nth % len(HATCHES)], "edgecolor": "white"}
        canvas.bar(xs, [y.value for y in ys], width, label=each.name, **style)
        canvas.errorbar(xs, [y.value for y in ys], yerr=_errors(ys), fmt="none", ecolor="#333333", elinewidth=0.8)
    if log:
        canvas.set_yscale("log")
    canvas.set_xticks(range(len(columns)), list(columns))
    _finish(figure, canvas, file)


def _canvas(axes: Axes) -> "tuple[Figure, Canvas]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("plots", "matplotlib is not installed; this gets it: pip install 'tiercel[plots]'") from error
    figure = Figure(figsize=SIZE, layout="constrained")
    canvas = figure.subplots()
    canvas.set_title(axes.title, loc="left")
    canvas.set_xlabel(axes.x)
    canvas.set_ylabel(axes.y)
    canvas.grid(axis="y", alpha=0.3)
    canvas.set_axisbelow(True)
    return figure, canvas


def _finish(figure: "Figure", canvas: "Canvas", file: Path) -> None:
    from matplotlib import rc_context

    canvas.legend(fontsize="small", ncols=1, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    metadata = {"Date": None} if file.suffix == ".svg" else None  # the same figures make the same file
    with rc_context({"svg.hashsalt": "tiercel", "svg.fonttype": "none"}):  # text stays text, which is smaller
        figure.savefig(file, dpi=150, metadata=metadata)


def _errors(points: Sequence[Point]) -> list[list[float]]:
    return [[point.value - point.low for point in points], [point.high - point.value for point in points]]


def _looks(groups: Sequence[str]) -> Iterator[tuple[str, int]]:
    """For each member its group's colour, and how many of the group came before it."""
    colors = {group: COLORS[number % len(COLORS)] for number, group in enumerate(dict.fromkeys(groups))}
    seen: Counter[str] = Counter()
    for group in groups:
        yield colors[group], seen[group]
        seen[group] += 1
