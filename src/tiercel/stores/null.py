"""A store that keeps nothing, for measuring everything but the storing."""

from collections.abc import Iterator, Mapping, Sequence

from tiercel.stores.base import Entry, Read, Result, Status, Usage, Write
from tiercel.stores.batch import in_turn
from tiercel.types import BlockKey


class NullStore:
    """Takes every object and forgets it at once."""

    name = "null"

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        return [False] * len(keys)

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        return in_turn(reads, deadline, lambda read: Result(Status.MISSING))

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        return in_turn(writes, deadline, lambda write: Result(Status.OK, write.bytes))

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        return in_turn(keys, deadline, lambda key: Result(Status.MISSING))

    def touch(self, keys: Sequence[BlockKey]) -> None:
        """There is nothing to touch."""

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        return iter(())

    def describe(self, namespace: str, description: bytes) -> None:
        """Descriptions are forgotten too."""

    def namespaces(self) -> Mapping[str, bytes]:
        return {}

    def clear(self, namespace: str | None = None) -> int:
        return 0

    def usage(self) -> Usage:
        return Usage(objects=0, bytes=0, capacity=0)

    def check_integrity(self) -> None:
        """There are no books."""

    def close(self) -> None:
        """Nothing is held open."""
