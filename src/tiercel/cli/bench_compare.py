"""`tiercel bench compare`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.console import waiting
from tiercel.cli.lists import names, numbers
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from tiercel.bench.compare import CompareLoad
    from tiercel.bench.peers.installed import Installed


def compare(
    peers: Annotated[Path, typer.Option(help="folder in which the peers are installed; docs/peers.md says what it holds")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="smollm2, qwen2-0.5b, or a directory with safetensors")
    ] = "smollm2",
    only: Annotated[str | None, typer.Option(help="who takes part, names with commas; a part of a name is enough")] = None,
    work: Annotated[str, typer.Option(help="what is measured, with commas")] = "ttft,tpot,batch,prefix,start,memory",
    prompt_tokens: Annotated[str, typer.Option(help="prompt lengths whose first token is timed")] = "128,512,2048,7000",
    contexts: Annotated[str, typer.Option(help="prompt lengths behind which 63 more tokens are timed")] = "128,2048,7000",
    requests: Annotated[str, typer.Option(help="requests at once, each of 256 tokens in and 128 out")] = "16,64",
    prefix_tokens: Annotated[int, typer.Option(min=64, metavar="N", help="length of the shared prefix")] = 4096,
    runs: Annotated[int, typer.Option(min=1, help="how often everything is measured, at most; what is slow, once")] = 3,
    patience: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="leave out what takes somebody longer")] = 60.0,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="threads of each; all processors if not given")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="draw pictures into this folder", file_okay=False)] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)] = None,
    seed: Annotated[int, typer.Option(help="seed of the random prompts")] = 0,
) -> None:
    """The same work on Tiercel and on other programs, in turns, each in processes of its own.

    Prompts are random token ids. Who is not installed is named.
    """
    from rich.console import Console

    from tiercel.bench.compare import WORKS, Rules, compare, kv_gib
    from tiercel.bench.compare_report import compare_tables, draw_comparison
    from tiercel.bench.peers.installed import find_installed
    from tiercel.bench.report import Report
    from tiercel.bench.workload import Workload
    from tiercel.models import open_checkpoint
    from tiercel.platforms import detect
    from tiercel.viz import require_matplotlib

    works = names("work", work, WORKS)
    load = _load(prompt_tokens, contexts, requests, prefix_tokens)
    installed = _chosen(find_installed(peers, model), only)
    vocabulary = open_checkpoint(installed.model).config.vocab_size
    rules = Rules(runs, patience, threads or detect().cores, kv_gib(installed.model, load))
    if plots is not None:
        require_matplotlib()
    with waiting("compare") as say:
        results = compare(installed.contenders, works, load, rules, Workload(vocabulary, seed), say)
    results.remarks.extend(installed.missing.items())
    settings = {
        "command": shlex.join(["tiercel", *sys.argv[1:]]),
        "model": installed.model.name,
        "threads": rules.threads,
        "runs, at most": runs,
        "GiB for KV": rules.kv_memory,
        "tokens out": f"{load.output_tokens} alone, {load.request_tokens} + {load.answer_tokens} of many",
        "prefix": f"{load.prefix.prefix_tokens} + {load.prefix.new_tokens} tokens",
        "cpu": detect().cpu,
    }
    report = Report("compare", settings, compare_tables(results, installed.contenders, works))
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
    if plots is not None:
        draw_comparison(results, installed.contenders, works, plots)


def _load(prompt_tokens: str, contexts: str, requests: str, prefix_tokens: int) -> "CompareLoad":
    from tiercel.bench.compare import PREFIX, CompareLoad
    from tiercel.bench.prefix import PrefixLoad

    return CompareLoad(
        tuple(numbers("prompt_tokens", prompt_tokens)),
        tuple(numbers("contexts", contexts)),
        requests=tuple(numbers("requests", requests)),
        prefix=PrefixLoad(prefix_tokens, PREFIX.new_tokens),
    )


def _chosen(installed: "Installed", only: str | None) -> "Installed":
    """Those whose names hold one of the words. Raises InvalidInput where a word fits nobody."""
    if only is None:
        return installed
    words = only.split(",")
    known = [contender.name for contender in installed.contenders] + list(installed.missing)
    for word in words:
        if not any(word in name for name in known):
            raise InvalidInput("only", f"{word!r} is part of none of the names {', '.join(known)}")
    contenders = tuple(each for each in installed.contenders if any(word in each.name for word in words))
    missing = {name: why for name, why in installed.missing.items() if any(word in name for word in words)}
    if not contenders:
        raise InvalidInput("only", f"none of these is installed: {', '.join(missing)}")
    return installed._replace(contenders=contenders, missing=missing)
