"""`tiercel chat`: turn by turn. Every turn sends the whole conversation; what was computed for it before is reused."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.answer import open_engine, stream_answer
from tiercel.cli.console import notes, remark, show_error, write
from tiercel.cli.groups import ENGINE, SAMPLING, Given
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from tiercel.engine import LLM

Message = dict[str, str]

HELP = "/reset forgets the conversation, /exit leaves (as the end of input does), Ctrl-C takes a turn back."


def register(app: typer.Typer, about: str) -> None:
    app.command("chat", help=f"{about}\n\n{HELP}")(chat)


@takes(engine=ENGINE, sampling=SAMPLING)
def chat(
    engine: EngineConfig,
    sampling: Given,
    system: Annotated[str | None, typer.Option(help="instructions that stand before the conversation")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="after each answer, say what was reused")] = False,
) -> None:
    interactive = sys.stdin.isatty()
    with open_engine(engine) as llm:
        if interactive:
            remark(HELP)
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        messages = list(opening)
        while (line := _read_turn(interactive)) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit" | "/quit":
                    return
                case "/reset":
                    messages = list(opening)
                case "/help":
                    notes().print(HELP)
                case text if text.startswith("/"):
                    notes().print(f"unknown command {text.split()[0]}. {HELP}")
                case text:
                    messages = _take_turn(llm, [*messages, {"role": "user", "content": text}], sampling, verbose)


def _read_turn(interactive: bool) -> str | None:
    """The next line; None at the end of input."""
    if not interactive:
        return sys.stdin.readline() or None
    with suppress(ImportError):
        import readline  # noqa: F401  editing and history of the line, where Python has it
    try:
        return input("> ")
    except EOFError:
        write("\n")
        return None


def _take_turn(llm: "LLM", messages: list[Message], sampling: Given, verbose: bool) -> list[Message]:
    """Answers the last message. Returns the conversation with the answer, or without the message where there is none."""
    try:
        answer = stream_answer(llm, llm.encode_chat(messages), sampling)
    except InvalidInput as error:
        show_error(error)
        remark("/reset starts afresh")
        answer = None
    if answer is None:
        return messages[:-1]
    if verbose:
        remark(str(answer))
    return [*messages, {"role": "assistant", "content": answer.text}]
