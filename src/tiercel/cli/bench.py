"""`tiercel bench`: what it measures is in `tiercel.bench`; here are the options, the progress and the output."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.answer import open_engine
from tiercel.cli.bench_compare import compare
from tiercel.cli.bench_long import long
from tiercel.cli.bench_quality import quality
from tiercel.cli.bench_server import server
from tiercel.cli.bench_start import start
from tiercel.cli.console import Waiting, waiting
from tiercel.cli.fresh_store import fresh_store
from tiercel.cli.groups import ENGINE
from tiercel.cli.lists import names, numbers
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tiercel.bench.limits import MachineLimits
    from tiercel.bench.measure import Subject
    from tiercel.bench.prefix import PrefixLoad
    from tiercel.bench.report import Row
    from tiercel.bench.work import ModelWork
    from tiercel.bench.workload import Workload
    from tiercel.engine import LLM

Runs = Annotated[int, typer.Option(min=1, help="how often everything is measured; tables show the median and the extremes")]
Json = Annotated[Path | None, typer.Option("--json", help="write the figures to this file as well", dir_okay=False)]
Peer = Annotated[str | None, typer.Option(help="also measure this program, in turns with Tiercel: transformers")]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        help="also measure this program, in turns with Tiercel: transformers, or NAME=PROGRAM:MODEL with one of the names "
        "llamacpp (PROGRAM: its llama-server), openvino, transformers, vllm (an interpreter that has it); may be given several "
        "times",
    ),
]
Shape = Annotated[str | None, typer.Option(help="measure random weights in this shape: qwen2.5-0.5b, smollm2-135m")]
Seed = Annotated[int, typer.Option(help="seed of the random prompts")]
Tokens = Annotated[int, typer.Option(min=1, metavar="N")]


def register(app: typer.Typer, about: str) -> None:
    benches = typer.Typer(help=about, no_args_is_help=True)
    for command in (latency, throughput, prefix, long, write_behind, start, server, kernels, quality, compare):
        benches.command()(command)
    app.add_typer(benches, name="bench")


@takes(engine=ENGINE)
def latency(
    engine: EngineConfig,
    prompt_tokens: Annotated[str, typer.Option(help="prompt lengths, with commas")] = "128,1024,4096",
    output_tokens: Tokens = 16,
    runs: Runs = 3,
    profile: Annotated[bool, typer.Option("--profile", help="also show where the time of a decoding step goes")] = False,
    same_prompts: Annotated[
        bool, typer.Option("--same-prompts", help="repeat the prompts, whose KV everybody keeps: times per token only")
    ] = False,
    shape: Shape = None,
    peer: Peers = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Time to first token by prompt length, time per output token by context, one request at a time.

    Beside them stands what the machine allows, measured in the same run.
    """
    lengths = numbers("prompt_tokens", prompt_tokens)
    with _shaped(engine, shape) as config, open_engine(_in_memory(config)) as llm, waiting("latency") as say:
        from tiercel.bench.latency import context_rows, decode_context, latency_rows, measure_latency
        from tiercel.bench.measure import TiercelSubject
        from tiercel.bench.profile import decode_rows, profile_decode
        from tiercel.bench.work import ModelWork
        from tiercel.bench.workload import Workload

        work = ModelWork.of(llm)
        subjects = [TiercelSubject(llm), *_peers(peer or [], llm, say)]
        contexts = [decode_context(length, output_tokens) for length in lengths]
        limits = _limits(llm, [int(work.step_bytes([context])) for context in contexts], say)
        workload = Workload(llm.tokenizer.vocab_size, seed)
        results = measure_latency(subjects, lengths, output_tokens, runs, workload, say, same_prompts=same_prompts)
        tables = {"latency": latency_rows(results, work, limits, first_token=not same_prompts)}
        if len(lengths) > 1:
            tables["what context adds"] = context_rows(results, work, limits)
        for length in lengths if profile else ():
            say(f"profile: {output_tokens} steps behind {length:,} tokens")
            measured = profile_decode(llm, work, length, max(2, output_tokens), workload)
            tables[f"a decoding step, context {length:,}"] = decode_rows(measured, work, limits)
    _report("latency", tables, _settings(config, llm.plan, runs) | _machine(limits, work), json)


@takes(engine=ENGINE)
def throughput(
    engine: EngineConfig,
    requests: Annotated[str, typer.Option(help="requests at once; several numbers with commas are measured one by one")] = "64",
    prompt_tokens: Tokens = 128,
    output_tokens: Tokens = 32,
    shared_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="first tokens that all prompts share")] = 0,
    runs: Runs = 3,
    profile: Annotated[bool, typer.Option("--profile", help="also show where the time of a decoding step goes")] = False,
    shape: Shape = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Tokens per second and hit rate of many requests at once, and the length of a step in which all of them decode."""
    if shared_tokens > prompt_tokens:
        raise InvalidInput("shared_tokens", f"{shared_tokens} of {prompt_tokens} prompt tokens cannot be shared")
    counts = numbers("requests", requests)
    with _shaped(engine, shape) as config, open_engine(_in_memory(config)) as llm, waiting("throughput") as say:
        from tiercel.bench.throughput import Load, measure_throughput, profile_decoding, profile_rows, throughput_rows
        from tiercel.bench.work import ModelWork
        from tiercel.bench.workload import Workload

        work, limits = ModelWork.of(llm), _limits(llm, [], say)
        loads = [Load(count, prompt_tokens, output_tokens, shared_tokens) for count in counts]
        workload = Workload(llm.tokenizer.vocab_size, seed)
        measured = {load: measure_throughput(llm, load, runs, workload, say) for load in loads}
        tables = {"throughput": throughput_rows(measured, work, limits)}
        for load in loads if profile else ():
            tables[f"a decoding step of {load.requests}"] = profile_rows(profile_decoding(llm, load, workload, say))
    sizes = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "shared_tokens": shared_tokens}
    _report("throughput", tables, _settings(config, llm.plan, runs) | sizes | _machine(limits, work), json)


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
        others = _peers([] if peer is None else [peer], llm, say)
        times = measure_prefix(llm, next(iter(others), None), load, runs, workload, say)
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


def kernels(
    shape: Annotated[str, typer.Option(help="shapes of models, with commas")] = "qwen2.5-0.5b,smollm2-135m",
    formats: Annotated[str, typer.Option(help="packed formats, with commas: BF16, I8, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K")] = (
        "BF16,I8,Q8_0,Q4_1,Q4_0"
    ),
    rows: Annotated[str, typer.Option(help="rows of the products, with commas")] = "1,4,16,64,512",
    contexts: Annotated[str, typer.Option(help="tokens that attention sees, with commas")] = "128,2048,7000",
    isa: Annotated[str, typer.Option(help="instruction set: avx2, avx512, amx; auto = the best there is")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="threads that compute; all processors if not given")
    ] = None,
    runs: Runs = 5,
    json: Json = None,
) -> None:
    """Each kernel of the native back end by itself: time, bytes per second, share of what the machine allows."""
    from tiercel.bench.attention import attention_rows, measure_contexts, vector_rate
    from tiercel.bench.kernels import KernelLoad, kernel_rows, layer_rows, measure_kernels, working_sets
    from tiercel.bench.limits import MachineLimits
    from tiercel.bench.shapes import SHAPES
    from tiercel.ops.cpu.library import LEVELS, Pool
    from tiercel.ops.cpu.packing import FORMATS
    from tiercel.platforms import detect

    if isa not in ("auto", *LEVELS):
        raise InvalidInput("isa", f"must be auto, {', '.join(LEVELS)}; got {isa!r}")
    load = KernelLoad(
        shapes=names("shape", shape, SHAPES),
        formats=names("formats", formats, [name for name in FORMATS if name not in ("F32", "F16")]),
        rows=numbers("rows", rows),
        contexts=numbers("contexts", contexts),
    )
    pool = Pool(threads or detect().cores, isa)
    with waiting("kernels") as say:
        say("measuring the machine")
        limits = MachineLimits.measure(pool, runs, working_sets=working_sets(pool, load))
        timings = measure_kernels(pool, load, runs, say)
        attention, lanes = list(measure_contexts(pool, load.shapes, runs, say)), vector_rate(pool, runs)
    tables = {
        "kernels": kernel_rows(timings, limits),
        "the products of a step": layer_rows(timings, limits),
        "attention": attention_rows(attention, limits, lanes),
    }
    settings = {"command": _command(), "cpu": detect().cpu, "isa": pool.level, "threads": pool.threads, "runs": runs}
    _report("kernels", tables, {**settings, **limits.settings(), "float32 lanes per second": lanes}, json)


@contextmanager
def _shaped(engine: EngineConfig, shape: str | None) -> Iterator[EngineConfig]:
    """The settings, with a model of random weights where a shape is asked for."""
    if shape is None:
        yield engine
        return
    from tiercel.bench.random_model import random_model

    with random_model(shape) as model:
        yield engine.model_copy(update={"model": str(model)})


def _limits(llm: "LLM", working_sets: Sequence[int], say: Waiting) -> "MachineLimits":
    from tiercel.bench.limits import MachineLimits
    from tiercel.bench.programs import open_pool

    say("measuring the machine")
    return MachineLimits.measure(open_pool(llm.plan.threads, llm.config.isa), working_sets=working_sets)


def _machine(limits: "MachineLimits", work: "ModelWork") -> dict[str, object]:
    """What the limits rest on."""
    sizes = {
        "MB of weights in a step": round(work.weight_bytes / 1e6, 1),
        "KV bytes a token": sum(r.token_bytes for r in work.kv),
    }
    return {**limits.settings(), **sizes}


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


def _peers(names: Sequence[str], llm: "LLM", say: Waiting) -> "list[Subject]":
    """The peers asked for, loaded with this engine's threads and, where they can read it, its model."""
    if not names:
        return []
    from tiercel.bench.peers import load_peer
    from tiercel.models import resolve_model

    peers = []
    for name in names:
        say(f"loading {name}")
        peers.append(load_peer(name, resolve_model(llm.config.model), llm.plan.threads))
    return peers


def _settings(engine: EngineConfig, plan: object, runs: int) -> dict[str, object]:
    """What belongs to every report."""
    from tiercel.platforms import detect

    return {"command": _command(), "model": Path(engine.model).name, "runs": runs, "cpu": detect().cpu, "plan": str(plan)}


def _command() -> str:
    return shlex.join(["tiercel", *sys.argv[1:]])


def _report(title: str, tables: "Mapping[str, Sequence[Row]]", settings: Mapping[str, object], json: Path | None) -> None:
    from rich.console import Console

    from tiercel.bench.report import Report

    report = Report(title, settings, tables)
    report.show(Console(highlight=False))
    if json is not None:
        report.save(json)
