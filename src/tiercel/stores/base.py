"""What a store is: bytes by key, kept outside the engine's own memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tiercel.types import BlockKey


class Status(Enum):
    """How one key of a batch fared."""

    OK = "ok"
    MISSING = "missing"  # there is no such object
    FULL = "full"  # no room: capacity, free-space floor, quota or the disk itself
    LATE = "late"  # the deadline passed before this key's turn
    FAILED = "failed"  # anything else; `detail` says what


@dataclass(frozen=True, slots=True)
class Result:
    """detail: for people, set where status is FULL or FAILED. bytes: read or written."""

    status: Status
    bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """Fill `buffers` (writable, in order) with the object's bytes from `offset` on. A shorter object fills fewer."""

    key: BlockKey
    offset: int
    buffers: Sequence[memoryview]


@dataclass(frozen=True, slots=True)
class Write:
    """An object whose bytes are `buffers`, one after the other."""

    key: BlockKey
    buffers: Sequence[memoryview]

    @property
    def bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object that a store holds. bytes: its size."""

    key: BlockKey
    bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds now. old_*: objects of older format versions, which nobody can read and which go first.

    newer_bytes: objects of newer versions, which another Tiercel reads: they take room and are left alone;
    capacity: bytes it may hold, None = no limit of its own; evicted: objects this process removed to make room.
    """

    objects: int
    bytes: int
    capacity: int | None
    old_objects: int = 0
    old_bytes: int = 0
    newer_bytes: int = 0
    evicted: int = 0


class Store(Protocol):
    """Keeps objects by key. It knows nothing of what is in them.

    All methods block, take batches and may be called from several threads at once; they are called from mover threads, never
    from the thread that steps the engine. deadline: `time.monotonic()` after which the rest of a batch is given up
    (Status.LATE); a call already made to the operating system is not interrupted. get, put and delete do not raise for what a
    store can meet (missing, full, broken): that is a `Result` per key, in order. The other methods raise OSError.
    An object appears whole or not at all, whatever happens to the process that writes it. What is put under a key that exists
    may be ignored: keys name content. Readers check what they read: a store promises no more than its best.
    """

    name: str

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        """Whether each object is there now, as a hint: it may be gone a moment later. False where the store does not know."""

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        """Reads ranges. Result.bytes tells how far the buffers were filled."""

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        """Stores whole objects, making room by evicting what was used longest ago.

        Storing is a use; of a batch, the last is the most recent. OK too, with 0 bytes, where the object is there already.
        """

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        """Removes objects; MISSING where there was none."""

    def touch(self, keys: Sequence[BlockKey]) -> None:
        """Says that these were used, the most valuable last. A hint for eviction; may be lost. Never raises."""

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        """All objects of the current format version, or those of one namespace, in no order."""

    def describe(self, namespace: str, description: bytes) -> None:
        """Records what a namespace is, for people and for other readers; the first description stays."""

    def namespaces(self) -> Mapping[str, bytes]:
        """The namespaces that were described or hold objects, with their descriptions (empty where there is none)."""

    def clear(self, namespace: str | None = None) -> int:
        """Removes every object, those of older format versions too, or only those of one namespace. Descriptions stay.

        Returns how many objects were removed; others may be putting new ones meanwhile.
        """

    def usage(self) -> Usage:
        """Counts what is held."""

    def check_integrity(self) -> None:
        """Raises AssertionError unless the store's own books agree with what it holds."""

    def close(self) -> None:
        """Gives back what the store holds open. Its objects stay, where it keeps them outside the process."""
