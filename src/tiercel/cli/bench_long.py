"""`tiercel bench long`."""

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tiercel.cli.answer import open_engine
from tiercel.cli.console import waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig


@takes(engine=ENGINE)
def long(
    engine: EngineConfig,
    prompt_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="tokens of the prompt")] = 65536,
    shape: Annotated[
        str | None, typer.Option(help="random weights in this shape; default: long-128k unless --model is given")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="how often the prompt is computed")] = 3,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)] = None,
) -> None:
    """Prefill of one long prompt: its rate part by part, held against what attention's growth explains."""
    from rich.console import Console

    from tiercel.bench.long import line_rows, long_rows, measure_long
    from tiercel.bench.random_model import random_model
    from tiercel.bench.report import Report
    from tiercel.bench.workload import Workload
    from tiercel.platforms import detect

    if shape is None and "model" not in engine.model_fields_set:
        shape = "long-128k"
    if "kv_disk" not in engine.model_fields_set:
        engine = engine.model_copy(update={"kv_disk": "off"})  # random prompts are of no use to anybody later
    with random_model(shape) if shape else nullcontext(engine.model) as model:
        config = engine.model_copy(update={"model": str(model)})
        with open_engine(config) as llm, waiting("long") as say:
            measured = measure_long(llm, prompt_tokens, runs, Workload(llm.tokenizer.vocab_size), say)
            settings = {
                "command": shlex.join(["tiercel", *sys.argv[1:]]),
                "model": Path(model).name,
                "runs": runs,
                "cpu": detect().cpu,
                "plan": str(llm.plan),
            }
    report = Report("long", settings, {"prefill": long_rows(measured), "a step": line_rows(measured)})
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
