"""Logs and metrics. The latter are in `tiercel.telemetry.metrics`: only a server needs them."""

from tiercel.telemetry.log import Logger, LogSettings, configure_logging, get_logger, log_settings

__all__ = ["LogSettings", "Logger", "configure_logging", "get_logger", "log_settings"]
