"""Logs: events with fields, as lines for people or as JSON for machines, always on standard error."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor


def configure_logging(level: str = "info", format: Literal["auto", "console", "json"] = "auto") -> None:
    """Sends this process's log, foreign libraries' lines included, through one formatter. A later call replaces an earlier one.

    format: auto = console where standard error is a terminal, JSON elsewhere.
    """
    interactive = sys.stderr.isatty()
    if format == "auto":
        format = "console" if interactive else "json"
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        rendering += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:  # plain tracebacks: richer ones print local variables, and those hold prompts
        plain = structlog.dev.plain_traceback
        rendering += [structlog.dev.ConsoleRenderer(colors=interactive, exception_formatter=plain)]

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=rendering))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and fields: `log.info("ready", url=url)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
