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
from tiercel.cli.fresh_store import fresh_store
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tiercel.bench.measure import Subject
    from tiercel.bench.prefix import PrefixLoad
    from tiercel.bench.report import Row
    from tiercel.bench.workload import Workload
    from tiercel.engine import LLM

Runs = Annotated[int, typer.Option(min=1, help="how often everything is measured; tables show the median and the extremes")]
Json = Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)]
Peer = Annotated[str | None, typer.Option(help="also measure this program, in turns with Tiercel: transformers")]
Seed = Annotated[int, typer.Option(help="seed of the random prompts")]
Tokens = Annotated[int, typer.Option(min=1, metavar="N")]


def register(app: typer.Typer, about: str) -> None:
    benches = typer.Typer(help=about, no_args_is_help=True)
    for command in (latency, throughput, prefix, write_behind):
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
    with open_engine(_in_memory(engine)) as llm, waiting("latency") as say:
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
    _report("latency", {"latency": rows}, _settings(engine, llm.plan, runs) | machine, json)


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
    with open_engine(_in_memory(engine)) as llm, waiting("throughput") as say:
        from tiercel.bench.throughput import Load, measure_throughput, profile_decoding, profile_rows, throughput_rows
        from tiercel.bench.workload import Workload

        load = Load(requests, prompt_tokens, output_tokens, shared_tokens)
        workload = Workload(llm.tokenizer.vocab_size, seed)
        tables = {"throughput": throughput_rows(load, measure_throughput(llm, load, runs, workload, say))}
        if profile:
            tables["a decoding step"] = profile_rows(profile_decoding(llm, load, workload, say))
    _report("throughput", tables, _settings(engine, llm.plan, runs) | asdict(load), json)


@takes(engine=ENGINE)
def prefix(
    engine: EngineConfig,
    prefix_tokens: Tokens = 4096,
    new_tokens: Tokens = 64,
    restart: Annotated[bool, typer.Option("--restart", help="the prefix was computed by a process that has ended")] = False,
    runs: Runs = 3,
    peer: Peer = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Time to first token of a long prompt, cold and with its prefix reused, and of the new tokens alone.

    With --restart: when the prefix comes from disk, in a new process, beside what reading its bytes takes.
    """
    from tiercel.bench.prefix import PrefixLoad

    load = PrefixLoad(prefix_tokens, new_tokens)
    if restart:
        if peer is not None:
            raise InvalidInput("peer", "keeps nothing for its next process; leave it out with --restart")
        _prefix_after_restart(engine, load, runs, json, seed)
        return
    with open_engine(_in_memory(engine)) as llm, waiting("prefix reuse") as say:
        from tiercel.bench.prefix import measure_prefix, prefix_rows
        from tiercel.bench.workload import Workload

        workload = Workload(llm.tokenizer.vocab_size, seed)
        times = measure_prefix(llm, next(iter(_peers(peer, llm, say)), None), load, runs, workload, say)
        rows = prefix_rows(times, peer or "")
    _report("prefix reuse", {"prefix reuse": rows}, _settings(engine, llm.plan, runs) | load._asdict(), json)


def _prefix_after_restart(engine: EngineConfig, load: "PrefixLoad", runs: int, json: Path | None, seed: int) -> None:
    from tiercel.bench.restart import measure_restart, process_ids, restart_tables

    with _fresh_store(engine) as config, waiting("prefix reuse after a restart") as say:
        measured = measure_restart(config, load, runs, _workload(engine, seed), say)
    settings = _settings(engine, measured[0].plan, runs) | load._asdict() | {"processes": process_ids(measured)}
    _report("prefix reuse after a restart", restart_tables(load, measured), settings, json)


@takes(engine=ENGINE)
def write_behind(
    engine: EngineConfig,
    prompt_tokens: Tokens = 4096,
    output_tokens: Tokens = 128,
    runs: Runs = 3,
    trace: Annotated[Path | None, typer.Option(help="write what happened when on which thread, for trace viewers")] = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """What writing a prompt's blocks to a store costs while tokens are generated."""
    from tiercel.bench.write_behind import DecodeLoad, measure_write_behind, write_behind_rows

    load = DecodeLoad(prompt_tokens, output_tokens)
    with _fresh_store(engine) as config, waiting("write-behind") as say:
        measured = measure_write_behind(config, load, runs, _workload(engine, seed), say)
    if trace is not None:
        measured[-1].trace.save(trace)
    rows = write_behind_rows(measured)
    _report("write-behind", {"write-behind": rows}, _settings(engine, measured[0].plan, runs) | asdict(load), json)


def _in_memory(engine: EngineConfig) -> EngineConfig:
    """Without KV on disk, unless the user asked for it: the prompts are random, and a second run with the same seed must not
    find what the first one left."""
    return engine if "kv_disk" in engine.model_fields_set else engine.model_copy(update={"kv_disk": "off"})


def _fresh_store(engine: EngineConfig) -> "AbstractContextManager[EngineConfig]":
    """The settings with an empty store, for what is measured with one."""
    if engine.kv_disk == "off":
        raise InvalidInput("kv_disk", "is off, and a store is what is measured here; name a folder for it")
    return fresh_store(engine)


def _workload(engine: EngineConfig, seed: int) -> "Workload":
    from tiercel.bench.workload import Workload
    from tiercel.models import open_checkpoint, resolve_model

    return Workload(open_checkpoint(resolve_model(engine.model)).tokenizer.vocab_size, seed)


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


def _settings(engine: EngineConfig, plan: object, runs: int) -> dict[str, object]:
    """What belongs to every report."""
    from tiercel.platforms import detect

    command = shlex.join(["tiercel", *sys.argv[1:]])
    return {"command": command, "model": Path(engine.model).name, "runs": runs, "cpu": detect().cpu, "plan": str(plan)}


def _report(title: str, tables: "Mapping[str, Sequence[Row]]", settings: Mapping[str, object], json: Path | None) -> None:
    from rich.console import Console

    from tiercel.bench.report import Report

    report = Report(title, settings, tables)
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
