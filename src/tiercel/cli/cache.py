"""`tiercel cache`: the KV that is kept on disk, seen and carried about without an engine."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from tiercel.cli.cache_explain import explain
from tiercel.cli.cache_store import disk_plan, find_namespace, opened, printable, read_description
from tiercel.cli.cache_warm import warm
from tiercel.cli.console import notes, waiting
from tiercel.cli.groups import DISK
from tiercel.cli.options import takes
from tiercel.cli.report import facts
from tiercel.config import EngineConfig, format_size
from tiercel.kv.catalog import Chain, chains
from tiercel.kv.catalog import verify as verify_store
from tiercel.kv.pack import Imported, export_pack, import_pack
from tiercel.stores import Store
from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from tiercel.models import Tokenizer

_TOKENS_SHOWN = 16
_DIGITS_SHOWN = 12
_COUNTS_WIDTH = 62  # of a line of `ls`, before the words

Json = Annotated[bool, typer.Option("--json", help="as JSON")]
OneNamespace = Annotated[str | None, typer.Option(metavar="ID", help="only this namespace; the beginning of its id will do")]
PackFile = Annotated[Path, typer.Argument(metavar="FILE", help="the pack")]


def register(app: typer.Typer, about: str) -> None:
    caches = typer.Typer(help=about, no_args_is_help=True)
    for name, command in (
        ("stats", stats),
        ("ls", ls),
        ("verify", verify),
        ("clear", clear),
        ("export", export),
        ("import", import_),
        ("explain", explain),
        ("warm", warm),
    ):
        caches.command(name)(command)
    app.add_typer(caches, name="cache")


@takes(disk=DISK)
def stats(disk: EngineConfig, as_json: Json = False) -> None:
    """How much is stored, of what, and how much may be."""
    plan = disk_plan(disk)
    with opened(plan) as store:
        usage = store.usage()
        namespaces = _namespaces(store)
    if as_json:
        figures = asdict(usage) | {"path": str(plan.path), "capacity": plan.capacity, "free_floor": plan.free_floor}
        del figures["evicted"]  # by this process, which is none that stores
        typer.echo(json.dumps(figures | {"namespaces": namespaces}))
        return
    rows = {
        "folder": str(plan.path),
        "objects": f"{usage.objects:,}",
        "size": f"{format_size(usage.bytes)} of {format_size(plan.capacity)}",
        "left free": f"{format_size(plan.free_floor)} of the disk, whatever the size allows",
    }
    if usage.old_objects:
        rows["older versions"] = f"{usage.old_objects:,} objects, {format_size(usage.old_bytes)}; they go first"
    if usage.newer_bytes:
        rows["newer versions"] = f"{format_size(usage.newer_bytes)}, for a newer Tiercel"
    facts("KV on disk", rows)
    for namespace in namespaces:
        _show_namespace(namespace)


@takes(disk=DISK)
def ls(
    disk: EngineConfig,
    namespace: OneNamespace = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="show the ids of the first tokens")] = False,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="show the first words, read by this model's tokenizer")
    ] = None,
    as_json: Json = False,
) -> None:
    """The prompts that are stored: those with the same beginning are one line."""
    tokenizer = None if model is None else _load_tokenizer(model)
    with opened(disk_plan(disk)) as store:
        found = chains(store, find_namespace(store, namespace))
    lines = [_line(chain, tokens, tokenizer) for chain in found]
    if as_json:
        typer.echo(json.dumps(lines))
    else:
        _show_lines(lines)


@takes(disk=DISK)
def verify(
    disk: EngineConfig,
    namespace: OneNamespace = None,
    repair: Annotated[bool, typer.Option("--repair", help="remove what is damaged")] = False,
    as_json: Json = False,
) -> None:
    """Check every byte of every object. Exit code 1 if something damaged is left."""
    with opened(disk_plan(disk)) as store, waiting("checking") as say:
        chosen = find_namespace(store, namespace)
        found = verify_store(store, chosen, repair=repair, progress=lambda size: say(f"checked {format_size(size)}"))
    damaged = [
        {
            "namespace": d.entry.key.namespace,
            "block": d.entry.key.block_hash.hex(),
            "bytes": d.entry.bytes,
            "problem": str(d.error),
        }
        for d in found.damaged
    ]
    if as_json:
        typer.echo(json.dumps({"objects": found.objects, "bytes": found.bytes, "removed": found.removed, "damaged": damaged}))
    else:
        for each in damaged:
            typer.echo(f"{each['namespace']}/{each['block']}: {each['problem']}")
        removed = f", {found.removed:,} of them removed" if repair and damaged else ""
        typer.echo(f"{found.objects:,} objects checked, {format_size(found.bytes)}; {len(damaged):,} damaged{removed}")
    if len(damaged) > found.removed:
        raise typer.Exit(1)


@takes(disk=DISK)
def clear(
    disk: EngineConfig,
    namespace: OneNamespace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Remove what is stored. Engines that run go on, and store anew."""
    plan = disk_plan(disk)
    with opened(plan) as store:
        chosen = find_namespace(store, namespace)
        sizes = [entry.bytes for entry in store.list(chosen)]
        if sizes and not yes:
            _ask(f"remove {len(sizes):,} objects, {format_size(sum(sizes))}, from {plan.path}")
        removed = store.clear(chosen)
    typer.echo(f"{removed:,} objects removed")


@takes(disk=DISK)
def export(disk: EngineConfig, file: PackFile, namespace: OneNamespace = None) -> None:
    """Write what is stored into one file, to carry it to another machine."""
    with opened(disk_plan(disk)) as store, waiting(f"writing {file}"):
        done = export_pack(store, file, namespace=find_namespace(store, namespace))
    typer.echo(f"{done.objects:,} objects, {format_size(done.bytes)}, in {printable(str(file))}")
    notes().print("The texts these blocks were computed from can be read out of the file.", style="dim")
    if done.skipped:
        notes().print(
            f"{done.skipped:,} damaged objects left out; `tiercel cache verify --repair` removes them", style="yellow"
        )


@takes(disk=DISK)
def import_(disk: EngineConfig, file: PackFile) -> None:
    """Store what a pack holds; every byte is checked first. Take packs only from whom you trust."""
    with opened(disk_plan(disk), create=True) as store, waiting(f"reading {file}"):
        done = import_pack(store, file)
    typer.echo(f"{done.objects:,} objects, {format_size(done.bytes)}, stored; {done.known:,} were there already")
    for problem in _problems(done):
        notes().print(problem, style="yellow", markup=False)
    if done.refused or done.not_stored or done.cut_short:
        raise typer.Exit(1)


class _Namespace(TypedDict):
    id: str
    objects: int
    bytes: int
    description: dict[str, str]


def _namespaces(store: Store) -> list[_Namespace]:
    """The largest first."""
    objects, sizes = Counter[str](), Counter[str]()
    for entry in store.list():
        objects[entry.key.namespace] += 1
        sizes[entry.key.namespace] += entry.bytes
    descriptions = store.namespaces()
    found = [
        _Namespace(id=name, objects=objects[name], bytes=sizes[name], description=read_description(descriptions.get(name, b"")))
        for name in descriptions.keys() | objects.keys()
    ]
    return sorted(found, key=lambda namespace: (-namespace["bytes"], namespace["id"]))


def _show_namespace(namespace: _Namespace) -> None:
    described = namespace["description"]
    rows = {"id": namespace["id"], "objects": f"{namespace['objects']:,}, {format_size(namespace['bytes'])}"}
    for field in ("weights", "numerics", "network", "tenant"):
        if described.get(field):
            rows[field] = described[field][:_DIGITS_SHOWN] if field == "weights" else described[field]
    facts("namespace", rows)


class _Line(TypedDict):
    namespace: str
    chain: str
    first_position: int
    tokens: int
    blocks: int
    ends: int
    bytes: int
    begins: str


def _line(chain: Chain, show_tokens: bool, tokenizer: "Tokenizer | None") -> _Line:
    begins = ""
    if tokenizer is not None:
        begins = printable(" ".join(tokenizer.decode(chain.first_tokens).split()))
    elif show_tokens:
        begins = " ".join(map(str, chain.first_tokens[:_TOKENS_SHOWN]))
    return _Line(
        namespace=chain.namespace,
        chain=chain.first_hash.hex(),
        first_position=chain.first_position,
        tokens=chain.tokens,
        blocks=chain.blocks,
        ends=chain.ends,
        bytes=chain.bytes,
        begins=begins,
    )


def _show_lines(lines: Sequence[_Line]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for namespace, chosen in groupby(lines, key=lambda line: line["namespace"]):
        console.print(f"namespace {namespace}", style="italic")
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("chain")
        for name in ("tokens", "from", "blocks", "ends", "size"):
            table.add_column(name, justify="right")
        table.add_column("begins", overflow="ellipsis", no_wrap=True, max_width=max(16, console.width - _COUNTS_WIDTH))
        for line in chosen:
            counts = (f"{line[name]:,}" for name in ("tokens", "first_position", "blocks", "ends"))
            table.add_row(line["chain"][:_DIGITS_SHOWN], *counts, format_size(line["bytes"]), Text(line["begins"]))
        console.print(table)


def _load_tokenizer(model: str) -> "Tokenizer":
    from tiercel.models import open_checkpoint, resolve_model

    return open_checkpoint(resolve_model(model)).tokenizer


def _ask(deed: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("yes", f"this would {deed}, and there is no terminal to ask on: say so with this option")
    typer.confirm(f"{deed.capitalize()}?", abort=True, err=True)


def _problems(done: Imported) -> list[str]:
    counted = {
        f"{done.refused:,} objects refused: they fail their check": done.refused,
        f"{done.not_stored:,} objects not stored": done.not_stored,
        f"{done.ignored:,} members ignored: they are no objects": done.ignored,
        "the file ends before its end; what came whole is stored": done.cut_short,
    }
    return [text for text, there in counted.items() if there] + [printable(detail) for detail in done.details]
