"""Where KV blocks are kept on disk, and how much of it: what a user writes, and the plan it stands for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from tiercel.config.places import absolute, is_switch, user_cache
from tiercel.config.sizes import parse_size

if TYPE_CHECKING:
    from tiercel.config.settings import EngineConfig

DEFAULT_CAPACITY = 20 << 30

_FORMS = "write auto, off, a folder, or a folder and its size like /var/cache/tiercel:20GiB"


@dataclass(frozen=True)
class DiskPlan:
    """A disk tier with nothing left open.

    path: folder, absolute; capacity: bytes it may hold; free_floor: bytes of its file system that it leaves free; explicit:
    whether the user named the folder.
    """

    path: Path
    capacity: int
    free_floor: int
    explicit: bool


def resolve_disk(config: "EngineConfig") -> DiskPlan | None:
    """The plan that `kv_disk` stands for; None where it is off, or where "auto" finds no home directory to live in.

    Raises InvalidInput where a folder written in short (`~`, relative) stands for none.
    """
    if config.kv_disk == "off":
        return None
    place, capacity = _split(config.kv_disk)
    path = _default_path() if place == "auto" else absolute("kv_disk", place)
    return None if path is None else DiskPlan(path, capacity, config.kv_disk_free, place != "auto")


def _check(text: str) -> str:
    """Raises ValueError unless `text` is one of the forms."""
    if text == "off":
        return text
    place, capacity = _split(text)
    if is_switch(place) or "\0" in place or _size(place) is not None:
        raise ValueError(_FORMS)
    if capacity < 1:
        raise ValueError("a size of nothing keeps nothing; write off instead")
    return text


DiskPlace = Annotated[str, AfterValidator(_check)]


def _split(text: str) -> tuple[str, int]:
    """Place and capacity. What follows the last colon belongs to the place unless it is a size."""
    place, colon, end = text.rpartition(":")
    capacity = _size(end) if colon else None
    return (text, DEFAULT_CAPACITY) if capacity is None else (place, capacity)


def _size(text: str) -> int | None:
    try:
        size = parse_size(text)
    except ValueError:
        return None
    return size if isinstance(size, int) else None


def _default_path() -> Path | None:
    cache = user_cache()
    return None if cache is None else cache / "kv"
