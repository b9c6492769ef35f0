"""Working through a batch until its deadline."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tiercel.stores.base import Result, Status

T = TypeVar("T")


def in_turn(items: Sequence[T], deadline: float, handle: Callable[[T], Result]) -> list[Result]:
    """One result per item: what `handle` says, or LATE for those whose turn comes after the deadline (`time.monotonic()`)."""
    return [handle(item) if time.monotonic() < deadline else Result(Status.LATE) for item in items]
