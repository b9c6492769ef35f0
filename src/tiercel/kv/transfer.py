"""What movers do: look blocks up in a store, read them into device slots, write them out. Runs on mover threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from tiercel.kv.block import BlockContent, KVBlock
from tiercel.kv.movers import Job, LookUpJob, WriteJob
from tiercel.kv.objects import (
    ObjectError,
    ObjectHeader,
    check_frame,
    check_identity,
    decode_header,
    encode_header,
    frame_bytes,
    payload_start,
)
from tiercel.stores import Read, Status, Store, Write
from tiercel.types import BlockKey, KVLayout, MissReason

WAVE_BYTES = 2 << 20  # of a block, read at a time; a layer that is larger is read whole
_WRITE_SECONDS = 30.0  # after which a store that hangs in the middle of a batch is given up

_MISSES: Mapping[Status, tuple[MissReason, str]] = {
    Status.MISSING: ("evicted", "it left the store just before it was to be loaded"),
    Status.FULL: ("store_failed", "the store failed"),
    Status.LATE: ("timed_out", "the store took too long"),
    Status.FAILED: ("store_failed", "the store failed"),
}


class LookUp(LookUpJob):
    """Which of `keys` a store holds. elsewhere: for each other namespace, keys whose presence there is worth telling.

    found: what is held; found_elsewhere: the first such namespace that holds all its keys; failed: the store gave no answer;
    late: its answer may lack what was to be looked for last.
    """

    def __init__(self, store: Store, keys: Sequence[BlockKey], elsewhere: Sequence[BlockKey], seconds: float) -> None:
        super().__init__()
        self.found: set[BlockKey] = set()
        self.found_elsewhere: str | None = None
        self.failed = ""
        self.late = False
        self._store = store
        self._keys = keys
        self._elsewhere = elsewhere
        self._deadline = monotonic() + seconds

    def run(self) -> bool:
        try:
            present = self._store.exists(self._keys, self._deadline)
            self.found = {key for key, there in zip(self._keys, present, strict=True) if there}
            self.late = monotonic() > self._deadline
            if not self.found and self._elsewhere:
                present = self._store.exists(self._elsewhere, self._deadline)
                self.found_elsewhere = next(
                    (k.namespace for k, there in zip(self._elsewhere, present, strict=True) if there), None
                )
        except OSError as error:
            self.failed = str(error)
        return False

    def fail(self, error: Exception) -> None:
        self.failed = str(error)


@dataclass(eq=False)
class Incoming:
    """A block on its way to a device slot. view: the slot's bytes; missed: why it will not come."""

    key: BlockKey
    block: KVBlock
    content: BlockContent
    layout: KVLayout
    view: memoryview
    head: bytearray = field(init=False)
    header: ObjectHeader | None = None
    missed: MissReason | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        self.head = bytearray(payload_start(self.layout))

    def fail(self, reason: MissReason, detail: str) -> None:
        self.missed, self.detail = reason, detail


class LoadChunk(Job):
    """A few blocks of a load. Each run reads the next layers of all of them and checks what it read.

    A chunk goes to the end of the queue after each run, so that the blocks of a load fill in layer order.
    """

    def __init__(self, store: Store, items: Sequence[Incoming], deadline: float) -> None:
        super().__init__()
        self.items = items
        self.bytes_read = 0
        self._store = store
        self._deadline = deadline
        self._first_layer = 0  # of the next wave, counted inside the group

    def run(self) -> bool:
        items = [item for item in self.items if item.missed is None]
        if not items:
            return False
        layers = self._wave(items[0].layout)
        reads = [_read(item, layers) for item in items]
        for item, read, result in zip(items, reads, self._store.get(reads, self._deadline), strict=True):
            self.bytes_read += result.bytes
            if result.status is not Status.OK:
                reason, text = _MISSES[result.status]
                item.fail(reason, result.detail or text)
            elif result.bytes < sum(buffer.nbytes for buffer in read.buffers):
                item.fail("corrupt", "it is cut short")
            else:
                _check(item, layers)
        self._first_layer = layers.stop
        return layers.stop < len(items[0].layout.layers)

    def fail(self, error: Exception) -> None:
        for item in self.items:
            item.fail("store_failed", str(error))

    def _wave(self, layout: KVLayout) -> range:
        layers = max(1, WAVE_BYTES // frame_bytes(layout))
        return range(self._first_layer, min(self._first_layer + layers, len(layout.layers)))


def _read(item: Incoming, layers: range) -> Read:
    """The bytes of some layers; with the first of them, the header before them."""
    size = frame_bytes(item.layout)
    frames = item.view[layers.start * size : layers.stop * size]
    if layers.start == 0:
        return Read(item.key, 0, (memoryview(item.head), frames))
    return Read(item.key, len(item.head) + layers.start * size, (frames,))


def _check(item: Incoming, layers: range) -> None:
    """Whatever is wrong with what lies under this key, among objects of this version: it is corrupt."""
    try:
        if item.header is None:
            item.header = _header(item)
        size = frame_bytes(item.layout)
        for index in layers:
            check_frame(item.header.frames[index], item.view[index * size : (index + 1) * size])
    except ObjectError as error:
        item.fail("corrupt", str(error))


def _header(item: Incoming) -> ObjectHeader:
    header = decode_header(item.head)
    check_identity(header, item.key, item.layout)
    if header.content != item.content:
        raise ObjectError("foreign", "it stands for other tokens or another place")
    return header


class WriteBlock(WriteJob):
    """Writes one block, unless the store has it. status: how that went; None = the store had it."""

    def __init__(self, store: Store, key: BlockKey, block: KVBlock, layout: KVLayout, view: memoryview) -> None:
        super().__init__()
        assert block.content is not None, "only sealed blocks are written"
        self.key = key
        self.block = block
        self.status: Status | None = None
        self.detail = ""
        self._store = store
        self._content = block.content
        self._layout = layout
        self._view = view

    def run(self) -> bool:
        deadline = monotonic() + _WRITE_SECONDS
        if self._store.exists([self.key], deadline)[0]:
            return False
        head = encode_header(self.key, self._content, self._layout, self._view)
        result = self._store.put([Write(self.key, (memoryview(head), self._view))], deadline)[0]
        self.status, self.detail = result.status, result.detail
        self.bytes_written = result.bytes
        return False

    def fail(self, error: Exception) -> None:
        self.status, self.detail = Status.FAILED, str(error)
