"""`tiercel run`: one prompt, one answer, streamed."""

from pathlib import Path
from typing import Annotated

import typer

from tiercel.cli.answer import open_engine, stream_answer
from tiercel.cli.console import remark
from tiercel.cli.groups import ENGINE, SAMPLING, Given
from tiercel.cli.laps import Laps
from tiercel.cli.options import takes
from tiercel.cli.prompts import Raw, System, encode_text, read_text
from tiercel.config import EngineConfig


def register(app: typer.Typer, about: str) -> None:
    app.command("run", help=about)(run)


@takes(engine=ENGINE, sampling=SAMPLING)
def run(
    prompt: Annotated[str, typer.Argument(help='the prompt; "-" reads it from standard input')],
    engine: EngineConfig,
    sampling: Given,
    system: System = None,
    raw: Raw = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say how long it took and what was reused")] = False,
    timings: Annotated[bool, typer.Option("--timings", help="say where the time to the first token went")] = False,
) -> None:
    laps = Laps()
    text = read_text("prompt", Path("-")) if prompt == "-" else prompt
    with open_engine(engine, laps.note) as llm:
        tokens = encode_text(llm, text, system, raw=raw)
        laps.note("prompt")
        answer = stream_answer(llm, tokens, sampling, laps.note)
    if timings:
        remark(str(laps))
    if answer is None:
        raise typer.Exit(130)
    if verbose:
        remark(str(answer))
