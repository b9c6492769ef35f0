"""Pictures of what formats cost, by the length of the windows."""

from collections.abc import Mapping
from pathlib import Path

from tiercel.bench.quality import Formats, Quality
from tiercel.viz import Axes, Bars, Point, draw_bars

# By the length of a window; the first formats are the baseline.
Measured = Mapping[int, Mapping[Formats, Quality]]


def draw_quality(folder: Path, measured: Measured) -> list[Path]:
    """The files, none where there is only a baseline. Raises InvalidInput without matplotlib, OSError."""
    first = next(iter(measured.values()))
    base, *others = first
    columns = [f"{length:,}" for length in measured]
    if not others:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    perplexity, divergence = folder / "perplexity.svg", folder / "divergence.svg"
    axes = Axes(f"Perplexity against {base}", "tokens of a window", "change, % (95 % interval)")
    draw_bars(
        perplexity, axes, columns, [_bars(each, [_change(found, each) for found in measured.values()]) for each in others]
    )
    axes = Axes(f"Mean KL divergence from {base}", "tokens of a window", "nats")
    draw_bars(
        divergence,
        axes,
        columns,
        [_bars(each, [_point(found[each].divergence) for found in measured.values()]) for each in others],
    )
    return [perplexity, divergence]


def _bars(formats: Formats, points: list[Point]) -> Bars:
    return Bars(str(formats), formats.kv, points)


def _change(found: Mapping[Formats, Quality], formats: Formats) -> Point:
    value, low, high = found[formats].change(next(iter(found.values())))
    return Point(*(100 * (value if bound is None else bound) for bound in (value, low, high)))


def _point(value: float) -> Point:
    return Point(value, value, value)
