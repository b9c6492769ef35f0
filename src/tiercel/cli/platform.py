"""`tiercel platform`: what this machine offers, as Tiercel sees it."""

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from tiercel.cli.report import facts
from tiercel.platforms import Platform, detect

LIBRARIES = ("tiercel", "torch", "numpy", "tokenizers")


def register(app: typer.Typer, about: str) -> None:
    app.command("platform", help=about)(platform)


def platform(as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False) -> None:
    machine = detect()
    versions = {name: _version(name) for name in LIBRARIES}
    if as_json:
        typer.echo(json.dumps(asdict(machine) | {"versions": versions}))
    else:
        facts("platform", _rows(machine) | {name: found or "not installed" for name, found in versions.items()})


def _rows(machine: Platform) -> dict[str, str]:
    from tiercel.config.sizes import format_size

    quota = f"; control group allows {machine.cpu_quota:g}" if machine.cpu_quota is not None else ""
    return {
        "system": f"{machine.system} {machine.machine}",
        "processor": machine.cpu,
        "cores": f"{machine.cores}{quota}",
        "memory": f"{format_size(machine.memory_available)} of {format_size(machine.memory_total)} available",
        "instruction sets": " ".join(machine.isa) or "none known",
        "NUMA nodes": str(machine.numa_nodes),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
