"""Logs and metrics."""

from tiercel.telemetry.log import configure_logging, get_logger
from tiercel.telemetry.metrics import ServerMetrics

__all__ = ["ServerMetrics", "configure_logging", "get_logger"]
