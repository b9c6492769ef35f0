"""`tiercel bench start`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tiercel.cli.console import waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig, format_size


@takes(engine=ENGINE)
def start(
    engine: EngineConfig,
    prompt_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="tokens of the prompt")] = 16,
    later: Annotated[int, typer.Option(min=1, metavar="N", help="starts after each first one")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="how often to begin with empty folders")] = 3,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)] = None,
) -> None:
    """Time from the start of `tiercel run` to its first token: with nothing kept of the model, and at later starts."""
    from rich.console import Console

    from tiercel.bench.report import Report
    from tiercel.bench.start import measure_starts, prompt_of, start_rows
    from tiercel.models import open_checkpoint, resolve_model
    from tiercel.platforms import detect

    with waiting("start") as say:
        prompt = prompt_of(open_checkpoint(resolve_model(engine.model)).tokenizer, prompt_tokens)
        starts = measure_starts(engine, prompt, runs, later, say)
    settings = {
        "command": shlex.join(["tiercel", *sys.argv[1:]]),
        "prompt tokens": prompt_tokens,
        "runs": runs,
        "later starts of each": later,
        "kept of the model": format_size(starts.kept_bytes),
        "cpu": detect().cpu,
        "plan": starts.plan,
    }
    report = Report("start", settings, {"start": start_rows(starts)})
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
