"""`tiercel platform`: what this machine offers, as Tiercel sees it, and what it makes of it."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.report import facts
from tiercel.platforms import Platform, detect

if TYPE_CHECKING:
    from tiercel.ops.cpu.probe import Rates

LIBRARIES = ("tiercel", "torch", "numpy", "tokenizers")


@dataclass(frozen=True)
class Native:
    """The native back end as an engine with these settings would use it.

    kernels: the instruction set that was chosen; missing: why there is none. rates: None where nothing was measured.
    """

    kernels: str | None
    missing: str | None
    levels: tuple[str, ...]
    threads: int
    rates: "Rates | None"


def register(app: typer.Typer, about: str) -> None:
    app.command("platform", help=about)(platform)


def platform(
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="measure memory and matrix rates, about 2 s")] = True,
) -> None:
    machine = detect()
    native = _native(machine, measure)
    versions = {name: _version(name) for name in LIBRARIES}
    if as_json:
        typer.echo(json.dumps(asdict(machine) | {"native": asdict(native), "versions": versions}))
    else:
        rows = _rows(machine) | _native_rows(native)
        facts("platform", rows | {name: found or "not installed" for name, found in versions.items()})


def _native(machine: Platform, measure: bool) -> Native:
    from tiercel.config import EngineConfig, checked
    from tiercel.ops.cpu.library import LEVELS, Pool, best_level
    from tiercel.ops.cpu.probe import READ_BYTES, measure_rates
    from tiercel.types import ModelError

    config = checked(EngineConfig, {})
    threads = machine.cores if config.threads == "auto" else config.threads
    pool, missing = None, None
    try:
        pool = Pool(threads, config.isa)
    except ModelError as error:
        missing = str(error)
    levels: tuple[str, ...] = () if pool is None else LEVELS[: LEVELS.index(best_level()) + 1]
    rates = measure_rates(pool, min(READ_BYTES, machine.memory_available // 4)) if measure else None
    return Native(None if pool is None else pool.level, missing, levels, threads, rates)


def _rows(machine: Platform) -> dict[str, str]:
    from tiercel.config.sizes import format_size

    quota = f"; control group allows {machine.cpu_quota:g}" if machine.cpu_quota is not None else ""
    return {
        "system": f"{machine.system} {machine.machine}",
        "processor": machine.cpu,
        "cores": f"{machine.cores}{quota}",
        "memory": f"{format_size(machine.memory_available)} of {format_size(machine.memory_total)} available",
        "instruction sets": ", ".join(machine.instruction_sets) or "none known",
        "NUMA nodes": str(machine.numa_nodes),
    }


def _native_rows(native: Native) -> dict[str, str]:
    from tiercel.config.sizes import format_size

    others = ", ".join(level for level in native.levels if level != native.kernels)
    rows = {
        "kernels": native.missing or f"native, {native.kernels}{others and f' (--isa: also {others})'}",
        "threads": str(native.threads),
    }
    if native.rates is not None:
        rows["memory is read at"] = f"{native.rates.read / 1e9:.1f} GB/s, over {format_size(native.rates.read_over)}"
        if native.rates.bf16 is not None and native.rates.int8 is not None:
            rows["products"] = f"bf16 {native.rates.bf16 / 1e12:.2f} TFLOP/s, int8 {native.rates.int8 / 1e12:.2f} TOP/s"
    return rows


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
