"""`tiercel bench`: what it measures is in `tiercel.bench`; here are the options, the progress and the output."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.answer import open_engine
from tiercel.cli.console import Waiting, waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from tiercel.bench.measure import Subject
    from tiercel.bench.report import Row
    from tiercel.engine import LLM

Runs = Annotated[int, typer.Option(min=1, help="how often everything is measured; tables show the median and the extremes")]
Json = Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)]
Peer = Annotated[str | None, typer.Option(help="also measure this program, in turns with Tiercel: transformers")]
Seed = Annotated[int, typer.Option(help="seed of the random prompts")]
Tokens = Annotated[int, typer.Option(min=1, metavar="N")]


def register(app: typer.Typer, about: str) -> None:
    benches = typer.Typer(help=about, no_args_is_help=True)
    for command in (latency, throughput, prefix):
        benches.command()(command)
    app.add_typer(benches, name="bench")


@takes(engine=ENGINE)
def latency(
    engine: EngineConfig,
    prompt_tokens: Annotated[str, typer.Option(help="prompt lengths, with commas")] = "128,1024,4096",
    output_tokens: Tokens = 16,
    runs: Runs = 3,
    peer: Peer = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Time to first token by prompt length, time per output token by context, one request at a time."""
    lengths = _lengths(prompt_tokens)
    with open_engine(engine) as llm, waiting("latency") as say:
        from tiercel.bench.latency import latency_rows, measure_latency
        from tiercel.bench.limits import MachineLimits
        from tiercel.bench.measure import TiercelSubject
        from tiercel.bench.workload import Workload
        from tiercel.models import open_checkpoint, resolve_model

        say("measuring the machine")
        limits = MachineLimits.measure()
        subjects = [TiercelSubject(llm), *_peers(peer, llm, say)]
        workload = Workload(llm.tokenizer.vocab_size, seed)
        results = measure_latency(subjects, lengths, output_tokens, runs, workload, say)
        rows = latency_rows(results, open_checkpoint(resolve_model(engine.model)).config, limits)
    machine = {"machine GFLOP/s": round(limits.flops / 1e9), "machine GB/s": round(limits.bandwidth / 1e9, 1)}
    _report("latency", llm, {"latency": rows}, runs, json, machine)


@takes(engine=ENGINE)
def throughput(
    engine: EngineConfig,
    requests: Annotated[int, typer.Option(min=1, metavar="N", help="requests at once")] = 64,
    prompt_tokens: Tokens = 128,
    output_tokens: Tokens = 32,
    shared_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="first tokens that all prompts share")] = 0,
    runs: Runs = 3,
    profile: Annotated[bool, typer.Option("--profile", help="also show where the time of a decoding step goes")] = False,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Tokens per second and hit rate of many requests at once."""
    if shared_tokens > prompt_tokens:
        raise InvalidInput("shared_tokens", f"{shared_tokens} of {prompt_tokens} prompt tokens cannot be shared")
    with open_engine(engine) as llm, waiting("throughput") as say:
        from tiercel.bench.throughput import Load, measure_throughput, profile_decoding, profile_rows, throughput_rows
        from tiercel.bench.workload import Workload

        load = Load(requests, prompt_tokens, output_tokens, shared_tokens)
        workload = Workload(llm.tokenizer.vocab_size, seed)
        tables = {"throughput": throughput_rows(load, measure_throughput(llm, load, runs, workload, say))}
        if profile:
            tables["a decoding step"] = profile_rows(profile_decoding(llm, load, workload, say))
    _report("throughput", llm, tables, runs, json, asdict(load))


@takes(engine=ENGINE)
def prefix(
    engine: EngineConfig,
    prefix_tokens: Tokens = 4096,
    new_tokens: Tokens = 64,
    runs: Runs = 3,
    peer: Peer = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Time to first token of a long prompt, cold and with its prefix reused, and of the new tokens alone."""
    with open_engine(engine) as llm, waiting("prefix reuse") as say:
        from tiercel.bench.prefix import PrefixLoad, measure_prefix, prefix_rows
        from tiercel.bench.workload import Workload

        load = PrefixLoad(prefix_tokens, new_tokens)
        workload = Workload(llm.tokenizer.vocab_size, seed)
        times = measure_prefix(llm, next(iter(_peers(peer, llm, say)), None), load, runs, workload, say)
        rows = prefix_rows(times, peer or "")
    _report("prefix reuse", llm, {"prefix reuse": rows}, runs, json, load._asdict())


def _lengths(text: str) -> list[int]:
    try:
        lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise InvalidInput("prompt_tokens", f"must be numbers of tokens with commas, like 128,1024; got {text!r}")
    return lengths


def _peers(name: str | None, llm: "LLM", say: Waiting) -> "list[Subject]":
    """The peer asked for, if any, loaded with this engine's model and threads."""
    if name is None:
        return []
    from tiercel.bench.peers import load_peer
    from tiercel.models import resolve_model

    say(f"loading {name}")
    return [load_peer(name, resolve_model(llm.config.model), llm.plan.threads)]


def _report(
    title: str,
    llm: "LLM",
    tables: "Mapping[str, Sequence[Row]]",
    runs: int,
    json: Path | None,
    more: Mapping[str, object] | None = None,
) -> None:
    from rich.console import Console

    from tiercel.bench.report import Report
    from tiercel.platforms import detect

    command = shlex.join(["tiercel", *sys.argv[1:]])
    settings = {"command": command, "model": llm.model_name, "runs": runs, "cpu": detect().cpu, "plan": str(llm.plan)}
    report = Report(title, settings | dict(more or {}), tables)
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
