"""Where the command line writes: answers to standard output, everything else to standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

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


@contextmanager
def waiting(text: str) -> Iterator[Waiting]:
    """Shows that something is under way, with the time it has taken; nothing where standard error is no terminal.

    Yields a function that changes the text.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = notes()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda description: progress.update(task, description=description)


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
