"""Logs and metrics."""

from tiercel.telemetry.log import LogSettings, configure_logging, get_logger, log_settings
from tiercel.telemetry.metrics import ServerMetrics

__all__ = ["LogSettings", "ServerMetrics", "configure_logging", "get_logger", "log_settings"]
