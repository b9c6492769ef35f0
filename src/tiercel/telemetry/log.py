"""Logs: events with fields, as lines for people or as JSON for machines, always on standard error.

Events go through the standard library's logging. A program that uses this package as a library handles them there like any
other; one that handles nothing sees warnings and worse on standard error. Standard output is left to answers in any case.
"""

import logging
import sys
from typing import Any, NamedTuple

import structlog
from structlog.typing import EventDict, Processor

from tiercel.config.server import LogFormat, LogLevel


class LogSettings(NamedTuple):
    """level: least that is logged; format: auto = console where standard error is a terminal, JSON elsewhere."""

    level: LogLevel = "info"
    format: LogFormat = "auto"


_settings: LogSettings | None = None


def log_settings() -> LogSettings | None:
    """What this process logs by, so that a process it starts can do the same; None = `configure_logging` was not called."""
    return _settings


def configure_logging(level: LogLevel = "info", format: LogFormat = "auto") -> None:
    """Sends this process's log, foreign libraries' lines included, through one formatter. A later call replaces an earlier one.

    level, format: see `LogSettings`.
    """
    global _settings
    _settings = LogSettings(level, format)
    interactive = sys.stderr.isatty()
    reading: list[Processor] = [
        _restore,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json" or (format == "auto" and not interactive):
        rendering += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:  # plain tracebacks: richer ones print local variables, and those hold prompts
        plain = structlog.dev.plain_traceback
        rendering += [structlog.dev.ConsoleRenderer(colors=interactive, exception_formatter=plain)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=reading, processors=rendering))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and fields: `log.info("ready", url=url)`.

    Neither needs nor touches the program's own settings of structlog.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return logger


def _hand_over(logger: logging.Logger, method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """The last step before the standard library: the event as text for any handler, with its parts for our own."""
    exception = event.pop("exc_info", None)
    fields = [f"{key}={value!r}" for key, value in event.items() if key != "event"]
    return (" ".join([str(event["event"]), *fields]),), {"exc_info": exception, "extra": {"event_dict": event}}


def _restore(logger: logging.Logger, method: str, event: EventDict) -> EventDict:
    """Undoes `_hand_over`; records of other libraries pass as they are."""
    event.update(getattr(event["_record"], "event_dict", {}))
    return event
