"""Pictures of what was measured. Only here is matplotlib imported, and only when something is drawn."""

from tiercel.viz.charts import Axes, Bars, Line, Point, draw_bars, draw_lines, require_matplotlib

__all__ = ["Axes", "Bars", "Line", "Point", "draw_bars", "draw_lines", "require_matplotlib"]
