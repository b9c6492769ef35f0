"""`tiercel run`: one prompt, one answer, streamed."""

import sys
from typing import Annotated

import typer

from tiercel.cli.answer import open_engine, stream_answer
from tiercel.cli.groups import ENGINE, SAMPLING, Given, sampling_params
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
    raw: Annotated[bool, typer.Option("--raw", help="continue the prompt as it is, without the model's chat template")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say how long it took and what was reused")] = False,
) -> None:
    text = sys.stdin.read() if prompt == "-" else prompt
    with open_engine(engine) as llm:
        if not raw and llm.has_chat_template:
            messages = [{"role": "user", "content": text}]
            text = llm.render_chat([{"role": "system", "content": system}, *messages] if system else messages)
        elif system:
            text = f"{system}\n\n{text}"
        stream_answer(llm, text, sampling_params(sampling, llm.generation_defaults), verbose=verbose)
