"""Where the command line writes: answers to standard output, everything else to standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from time import monotonic
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_PATIENCE = 0.4  # seconds before a sign of life: a quick start needs none, and loading what shows it would slow it down
_ARGUMENTS = ("prompt", "messages", "source", "destination")  # named without dashes

Waiting = Callable[[str], None]  # changes what is said to be under way


def notes() -> "Console":
    """Standard error, for whatever is not the answer itself."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def write(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def remark(text: str) -> None:
    """A quiet line on standard error. Unlike `notes` it loads nothing: it is for what is said before the first token."""
    typer.secho(text, dim=True, err=True)


@contextmanager
def waiting(text: str) -> Iterator[Waiting]:
    """Shows that something is under way once it takes a while, with the time it has taken; nothing where standard error is no
    terminal.

    Yields a function that changes the text.
    """
    sign = _Sign(text)
    timer = Timer(_PATIENCE, sign.show) if sys.stderr.isatty() else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield sign.say
    finally:
        if timer is not None:
            timer.cancel()
        sign.end()


class _Sign:
    """What is under way, shown from some time on by another thread."""

    def __init__(self, text: str) -> None:
        self._lock = Lock()
        self._began = monotonic()
        self._text = text
        self._progress: Progress | None = None
        self._ended = False

    def show(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._ended:
                return
            columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
            self._progress = Progress(*columns, console=notes(), transient=True, get_time=monotonic)
            self._progress.add_task(self._text, total=None)
            self._progress.tasks[0].start_time = self._began
            self._progress.start()

    def say(self, text: str) -> None:
        with self._lock:
            self._text = text
            if self._progress is not None:
                self._progress.update(self._progress.task_ids[0], description=text)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._progress is not None:
                self._progress.stop()


def show_error(error: Exception) -> int:
    """One line on standard error for an error raised on purpose; returns the exit code. Any other is raised again."""
    from tiercel.types import InvalidInput, TiercelError

    if not isinstance(error, TiercelError):
        raise error
    typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    if not isinstance(error, InvalidInput):
        typer.echo(str(error), err=True)
        return 1
    option = error.field if error.field in _ARGUMENTS else "--" + error.field.replace("_", "-")
    typer.echo(f"{option}: {error.message}", err=True)
    return 2
