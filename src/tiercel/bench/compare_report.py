"""A comparison as tables, ratios and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tiercel.bench.compare import ALL_WORK, COLD, FIRST_TOKEN, MB, RESTARTED, WARM, Comparison, Figure
from tiercel.bench.measure import Summary
from tiercel.bench.peers.installed import Contender
from tiercel.bench.report import Row
from tiercel.viz import Axes, Bars, Line, Point, draw_bars, draw_lines


class Kind(NamedTuple):
    """How a kind of work is shown. at: what its columns are; factor: from what was measured to the unit of the title."""

    title: str
    short: str
    at: str
    more_is_better: bool = False
    factor: float = 1.0


KINDS = {
    "ttft": Kind("time to first token, s, by prompt tokens", "TTFT, s", "prompt tokens"),
    "tpot": Kind("time per output token, ms, by context", "TPOT, ms", "tokens of context"),
    "batch": Kind("output tokens/s, by requests handed in at once", "output tokens/s", "requests", more_is_better=True),
    "prefix": Kind("shared prefix and new tokens: time to first token, s", "TTFT with a shared prefix, s", ""),
    "start": Kind("new process to first token, s", "start, s", ""),
    "memory": Kind("peak memory, MB", "peak memory, MB", "", factor=1 / MB),
}
RECOMPUTED = {"nothing": (WARM, RESTARTED), "memory": (RESTARTED,), "disk": ()}  # what each finds no keys and values for


def compare_tables(results: Comparison, contenders: Sequence[Contender], works: Sequence[str]) -> dict[str, list[Row]]:
    """One table for each kind of work, one of how Tiercel compares, one of who or what is missing."""
    tables = {KINDS[work].title: _rows(results, contenders, work) for work in works}
    tables["tiercel against the best peer, times better"] = _ratios(results, contenders, works)
    tables["not measured"] = [{"who": who, "why": why} for who, why in results.remarks]
    return {title: rows for title, rows in tables.items() if rows}


def draw_comparison(results: Comparison, contenders: Sequence[Contender], works: Sequence[str], folder: Path) -> list[Path]:
    """One picture for each kind of work, named after it. Raises InvalidInput without matplotlib, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for work in works:
        figures = _figures(results, work)
        shown = [who for who in contenders if any(_shown(results, figure, who) for figure in figures)]
        if not shown:
            continue
        kind, file = KINDS[work], folder / f"{work}.svg"
        axes = Axes(kind.title, kind.at, kind.short)
        if work in ("ttft", "tpot"):
            lines = [Line(who.name, who.entry.peer, _line(results, figures, who)) for who in shown]
            draw_lines(file, axes, lines)
        else:
            points = [[_point(_shown(results, figure, who)) for figure in figures] for who in shown]
            bars = [Bars(who.name, who.entry.peer, each) for who, each in zip(shown, points, strict=True)]
            draw_bars(file, axes, [figure.at for figure in figures], bars, log=work in ("prefix", "start"))
        files.append(file)
    return files


def _rows(results: Comparison, contenders: Sequence[Contender], work: str) -> list[Row]:
    figures = _figures(results, work)
    rows: list[Row] = []
    for who in contenders:
        summaries = {figure.at: _shown(results, figure, who) for figure in figures}
        if any(summaries.values()):
            row: Row = {"who": who.name, "weights / activations / KV": str(who.entry.precision), **summaries}
            if work == "prefix":
                again = RECOMPUTED[who.entry.keeps]
                row["KV kept in"] = who.entry.keeps + (f"; {' and '.join(again)}: recomputed" if again else "")
            rows.append(row)
    return rows


def _ratios(results: Comparison, contenders: Sequence[Contender], works: Sequence[str]) -> list[Row]:
    """For every figure and form of Tiercel: against the best peer of its precision, and against the best of all."""
    rows: list[Row] = []
    for figure in (figure for work in works for figure in _figures(results, work)):
        for own in (who for who in contenders if who.is_tiercel and _shown(results, figure, who)):
            others = [who for who in contenders if not who.is_tiercel and _shown(results, figure, who)]
            row: Row = {"what": f"{KINDS[figure.work].short}, {figure.at}", "who": own.name}
            alike = [who for who in others if who.entry.group == own.entry.group]
            for precision, some in (("same precision", alike), ("any precision", others)):
                best = _best(results, figure, some)
                row[f"best peer, {precision}"] = best.name if best else ""
                row[f"times better, {precision}"] = _times_better(results, figure, own, best) if best else None
            rows.append(row)
    return rows


def _best(results: Comparison, figure: Figure, some: Sequence[Contender]) -> Contender | None:
    medians = [(summary.median, number) for number, who in enumerate(some) if (summary := _shown(results, figure, who))]
    choose = max if KINDS[figure.work].more_is_better else min
    return some[choose(medians)[1]] if medians else None


def _times_better(results: Comparison, figure: Figure, own: Contender, peer: Contender) -> float:
    ours, theirs = _shown(results, figure, own), _shown(results, figure, peer)
    assert ours is not None
    assert theirs is not None
    ratio = theirs.median / ours.median
    return 1 / ratio if KINDS[figure.work].more_is_better else ratio


def _figures(results: Comparison, work: str) -> list[Figure]:
    """In the order in which they were first measured; of a prefix and of memory in the order of events."""
    order = [COLD, WARM, RESTARTED, FIRST_TOKEN, ALL_WORK]
    found = [figure for figure in results.figures if figure.work == work]
    return sorted(found, key=lambda figure: order.index(figure.at) if figure.at in order else -1)


def _shown(results: Comparison, figure: Figure, who: Contender) -> Summary | None:
    """In the unit of its kind. What somebody has to compute again takes as long as the first time."""
    again = figure.work == "prefix" and figure.at in RECOMPUTED[who.entry.keeps]
    summary = results.summary(Figure("prefix", COLD) if again else figure, who.name)
    return summary.scaled(KINDS[figure.work].factor) if summary else None


def _point(summary: Summary | None) -> Point | None:
    return Point(summary.median, summary.low, summary.high) if summary else None


def _line(results: Comparison, figures: Sequence[Figure], who: Contender) -> list[tuple[float, Point]]:
    points = [(float(figure.at.replace(",", "")), _point(_shown(results, figure, who))) for figure in figures]
    return [(x, point) for x, point in sorted(points, key=lambda pair: pair[0]) if point is not None]
