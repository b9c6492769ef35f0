"""`tiercel bench server`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tiercel.cli.console import waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig


@takes(engine=ENGINE)
def server(
    engine: EngineConfig,
    prompt_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="tokens of the prompt")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, metavar="N", help="tokens of the answer")] = 256,
    runs: Annotated[int, typer.Option(min=1, help="how often the answer is streamed")] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)] = None,
) -> None:
    """Time between the tokens of one streamed answer of `tiercel serve`, and where it goes."""
    from rich.console import Console

    from tiercel.bench.report import Report
    from tiercel.bench.server import measure_server, server_rows
    from tiercel.bench.workload import Workload
    from tiercel.models import open_checkpoint, resolve_model
    from tiercel.platforms import detect

    with waiting("server") as say:
        vocabulary = open_checkpoint(resolve_model(engine.model)).config.vocab_size
        prompt = Workload(vocabulary, 0).prompt(prompt_tokens)
        streamed = measure_server(engine, prompt, output_tokens, runs, say)
    settings = {
        "command": shlex.join(["tiercel", *sys.argv[1:]]),
        "prompt tokens": prompt_tokens,
        "output tokens": output_tokens,
        "runs": runs,
        "cpu": detect().cpu,
    }
    report = Report("server", settings, {"streaming": server_rows(streamed)})
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
