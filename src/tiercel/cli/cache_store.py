"""Opening the store on disk without an engine, and naming what is in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tiercel.cli.console import notes
from tiercel.config import DiskPlan, EngineConfig, resolve_disk
from tiercel.stores import FileStore, NullStore, Store
from tiercel.types import InvalidInput, TiercelError

_LONGEST_DESCRIPTION = 1 << 16
_LONGEST_VALUE = 200


def disk_plan(config: EngineConfig) -> DiskPlan:
    """Where the store is. Raises InvalidInput where there is to be none."""
    plan = resolve_disk(config)
    if plan is None:
        why = "is off" if config.kv_disk == "off" else "finds no home directory"
        raise InvalidInput("kv_disk", f"it {why}, so there is no store to work on; name its folder")
    return plan


@contextmanager
def opened(plan: DiskPlan, *, create: bool = False) -> Iterator[Store]:
    """The store in a folder; where there is none, and none is to be made, an empty one, and a line that says so.

    Raises TiercelError for whatever the file system has against it, then or later.
    """
    try:
        if not create and not plan.path.exists():
            notes().print(f"nothing stored yet: there is no folder {plan.path}", markup=False)
            yield NullStore()
            return
        store = FileStore(plan.path, capacity=plan.capacity, free_floor=plan.free_floor)
        try:
            yield store
        finally:
            store.close()
    except OSError as error:
        raise TiercelError(f"the store in {plan.path} cannot be used: {error.strerror or error}") from error


def find_namespace(store: Store, beginning: str | None) -> str | None:
    """The one namespace whose id begins so; None where none was asked for. Raises InvalidInput."""
    if beginning is None:
        return None
    found = [name for name in store.namespaces() if name.startswith(beginning)]
    if len(found) != 1:
        what = "none" if not found else f"each of {', '.join(sorted(found))}"
        raise InvalidInput("namespace", f"{what} begins with {beginning!r}; `tiercel cache stats` lists them")
    return found[0]


def read_description(description: bytes) -> dict[str, str]:
    """What was written down about a namespace, by whomever: made fit to be shown."""
    try:
        fields = json.loads(description) if 0 < len(description) <= _LONGEST_DESCRIPTION else {}
    except (ValueError, RecursionError):
        fields = {}
    if not isinstance(fields, dict):
        return {}
    return {printable(str(name)): printable(str(value)) for name, value in fields.items()}


def printable(text: str) -> str:
    """A text that cannot steer a terminal, and is not endless."""
    cut = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
    return "".join(character if character.isprintable() else "�" for character in cut)
