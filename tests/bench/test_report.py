"""Reports on the terminal and as JSON."""

import io
import json
from pathlib import Path

from rich.console import Console

from tiercel.bench.measure import Summary
from tiercel.bench.report import Report, Row

ROWS: list[Row] = [
    {"what": "a", "n": 12345, "time": Summary((0.001234, 1.5, 1000.0)), "ratio": None},
    {"what": "b", "n": 1, "time": Summary.once(0.25), "ratio": 0.5},
]


def test_table() -> None:
    text = io.StringIO()
    Report("title", {"runs": 3}, {"figures": ROWS}).show(Console(file=text, width=120))
    shown = text.getvalue()
    assert "figures" in shown
    assert "runs: 3" in shown
    assert "12,345   1.50 (0.00123 - 1,000)" in shown
    assert "0.250   0.500" in shown


def test_json(tmp_path: Path) -> None:
    Report("title", {"runs": 3}, {"figures": ROWS}).save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["title"], saved["settings"]) == ("title", {"runs": 3})
    first, second = saved["tables"]["figures"]
    assert first["time"] == {"median": 1.5, "min": 0.001234, "max": 1000.0, "values": [0.001234, 1.5, 1000.0]}
    assert (first["ratio"], second["ratio"], second["n"]) == (None, 0.5, 1)
