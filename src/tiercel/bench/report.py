"""Measurements as a table on the terminal and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tiercel.bench.measure import Summary

Cell = str | int | float | Summary | None
Row = dict[str, Cell]


@dataclass(frozen=True)
class Report:
    """What was measured, under which settings, in named tables of rows with the same keys."""

    title: str
    settings: Mapping[str, object]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def show(self, console: Console) -> None:
        for name, rows in self.tables.items():
            table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD)
            for column, cell in rows[0].items():
                table.add_column(column, justify="left" if isinstance(cell, str) else "right", overflow="fold")
            for row in rows:
                table.add_row(*(_as_text(cell) for cell in row.values()))
            console.print(table)
        console.print(", ".join(f"{name}: {value}" for name, value in self.settings.items()), style="dim")

    def save(self, path: Path) -> None:
        """JSON: summaries with median, extremes and every value."""
        tables = {name: [{k: _as_json(v) for k, v in row.items()} for row in rows] for name, rows in self.tables.items()}
        path.write_text(json.dumps({"title": self.title, "settings": dict(self.settings), "tables": tables}, indent=2) + "\n")


def _as_text(cell: Cell) -> str:
    """Three significant digits; a summary as its median and, in brackets, its extremes."""
    match cell:
        case None:
            return ""
        case Summary() if cell.low == cell.high:
            return _number(cell.median)
        case Summary():
            return f"{_number(cell.median)} ({_number(cell.low)} - {_number(cell.high)})"
        case float():
            return _number(cell)
        case int():
            return f"{cell:,}"
        case str():
            return cell


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:#.3g}"


def _as_json(cell: Cell) -> object:
    if isinstance(cell, Summary):
        return {"median": cell.median, "min": cell.low, "max": cell.high, "values": list(cell.values)}
    return cell
