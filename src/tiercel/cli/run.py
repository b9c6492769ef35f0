"""`tiercel run`: one prompt, one answer, streamed."""

import sys
from typing import Annotated

import typer

from tiercel.cli.answer import open_engine, stream_answer
from tiercel.cli.console import notes
from tiercel.cli.groups import ENGINE, SAMPLING, Given
from tiercel.cli.options import takes
from tiercel.config import EngineConfig


def register(app: typer.Typer, about: str) -> None:
    app.command("run", help=about)(run)


@takes(engine=ENGINE, sampling=SAMPLING)
def run(
    prompt: Annotated[str, typer.Argument(help='the prompt; "-" reads it from standard input')],
    engine: EngineConfig,
    sampling: Given,
    system: Annotated[str | None, typer.Option(help="instructions that stand before the prompt")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text as it is, without the model's chat template")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say how long it took and what was reused")] = False,
) -> None:
    text = sys.stdin.read() if prompt == "-" else prompt
    with open_engine(engine) as llm:
        if raw or not llm.has_chat_template:
            prompt_ids = llm.tokenizer.encode(f"{system}\n\n{text}" if system else text)
        else:
            opening = [{"role": "system", "content": system}] if system else []
            prompt_ids = llm.encode_chat([*opening, {"role": "user", "content": text}])
        answer = stream_answer(llm, prompt_ids, sampling)
    if answer is None:
        raise typer.Exit(130)
    if verbose:
        notes().print(f"[dim]{answer}[/]")
