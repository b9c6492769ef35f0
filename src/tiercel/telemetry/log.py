"""Logs: events with fields, as lines for people or as JSON for machines, always on standard error.

Events go through the standard library's logging. A program that uses this package as a library handles them there like any
other; one that handles nothing sees warnings and worse on standard error. Standard output is left to answers in any case.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tiercel.config.server import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


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
    import structlog  # only who formats needs it: it takes longer to load than a short answer to begin

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


class Logger:
    """Takes events with fields: `log.info("ready", url=url)`. Made by `get_logger`.

    `exc_info` is no field: an exception, or True for the one being handled, whose traceback is logged as well.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error, with the traceback of the exception being handled."""
        self._log(logging.ERROR, event, {"exc_info": True, **fields})

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        """Hands the event over to the standard library: as text for any handler, with its parts for our own."""
        if self._logger.isEnabledFor(level):
            exception = fields.pop("exc_info", None)
            text = " ".join([event, *(f"{key}={value!r}" for key, value in fields.items())])
            extra = {"event_dict": {**fields, "event": event}}
            self._logger.log(level, text, exc_info=exception, extra=extra, stacklevel=3)


def get_logger(name: str) -> Logger:
    """A logger on top of the standard library's. Neither needs nor touches the program's own settings of structlog."""
    return Logger(logging.getLogger(name))


def _restore(logger: logging.Logger, method: str, event: "EventDict") -> "EventDict":
    """Undoes `Logger._log`; records of other libraries pass as they are."""
    event.update(getattr(event["_record"], "event_dict", {}))
    return event
