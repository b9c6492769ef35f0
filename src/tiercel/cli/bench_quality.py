"""`tiercel bench quality`."""

import shlex
import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from tiercel.cli.console import waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.lists import names, numbers
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

_WEIGHTS = "bf16", "int8", "int4", "stored"
_KV = "bfloat16", "int8", "int4", "int4-plain"


@takes(engine=ENGINE)
def quality(
    engine: EngineConfig,
    weights: Annotated[str, typer.Option(help=f"formats of weights, with commas: {', '.join(_WEIGHTS)}")] = "bf16,int8",
    kv: Annotated[str, typer.Option(help=f"formats of KV, with commas: {', '.join(_KV)}")] = "bfloat16,int8",
    baseline: Annotated[
        str, typer.Option(help="what they are held against: bf16 (weights and KV), float32 (on the reference back end)")
    ] = "bf16",
    text: Annotated[
        str, typer.Option(metavar="essays|FILE", help="what is read: all essays, or a text file, which may be gzipped")
    ] = "essays",
    tokens: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="how much of the text is read; all if not given")
    ] = None,
    window: Annotated[str, typer.Option(help="tokens that are read from an empty cache; several lengths with commas")] = "2048",
    plots: Annotated[Path | None, typer.Option(help="also draw the figures, as SVG into this folder", file_okay=False)] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)] = None,
) -> None:
    """Perplexity on real text, and next-token distributions held against those of a baseline."""
    from rich.console import Console

    from tiercel.bench.quality import BF16, FLOAT32, Formats, measure_quality, quality_rows, windows_of
    from tiercel.bench.quality_plots import draw_quality
    from tiercel.bench.report import Report
    from tiercel.bench.texts import read_text
    from tiercel.engine.build import load_checkpoint
    from tiercel.platforms import detect
    from tiercel.viz import require_matplotlib

    lengths = numbers("window", window)
    bases = {"bf16": BF16, "float32": FLOAT32}
    if baseline not in bases:
        raise InvalidInput("baseline", f"must be {' or '.join(bases)}; got {baseline!r}")
    pairs = [Formats(*pair) for pair in product(names("weights", weights, _WEIGHTS), names("kv", kv, _KV))]
    checkpoint = load_checkpoint(engine)
    token_ids = checkpoint.tokenizer.encode(read_text(text))[:tokens]
    if plots is not None:
        require_matplotlib()
    measured, tables = {}, {}
    with waiting("quality") as say:
        for length in lengths:
            windows = windows_of(token_ids, length)
            measured[length] = measure_quality(engine, [bases[baseline], *pairs], windows, say)
            tables[f"{len(windows):,} windows of {windows.shape[1]:,} tokens"] = quality_rows(measured[length])
    settings = {
        "command": shlex.join(["tiercel", *sys.argv[1:]]),
        "model": Path(engine.model).name,
        "bf16 weights are made of": ", ".join(checkpoint.matrix_formats),
        "text": text,
        "cpu": detect().cpu,
    }
    report = Report("quality", settings, tables)
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
    if plots is not None:
        draw_quality(plots, measured)
