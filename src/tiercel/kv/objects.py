"""The stored form of a block: a framed object that says what it is and proves it.

    prefix   magic, header length, checksum of the header
    header   what the block is (`ObjectHeader`), with one `Frame` per layer: where its bytes lie and their checksum
    zeros    up to a multiple of 4,096
    payload  the frames, in layer order; inside a frame [k or v, head, token, dim], as `KVLayout` has it

Every byte is covered by a check of its own: nothing of a header is used before the header's checksum, nothing of a frame before
that frame's. The header repeats the key, and its hash must follow from its parent and tokens: a file under another's name is
found out.
"""

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tiercel.kv.hashing import block_hash
from tiercel.types import FORMAT_VERSION, BlockHash, BlockKey, KVLayout

ALIGNMENT = 4096
_MAGIC = b"TIERCEL\x00"
_PREFIX = struct.Struct("<8sHHI16s")  # magic, format version, nothing, header length, header checksum
_HEADER_ROOM = 1024  # for all header fields but the frames
_FRAME_ROOM = 48  # for one frame


class ObjectError(Exception):
    """An object that must not be used: corrupt (it fails a check), of another format version, or foreign (another block)."""

    def __init__(self, reason: Literal["corrupt", "version", "foreign"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One layer's bytes. offset: from the start of the object; checksum: BLAKE3 of the stored bytes, cut to 16."""

    layer: int
    offset: int
    bytes: int
    checksum: bytes


class ObjectHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a stored block is.

    tokens: little-endian int32; extras: what else went into its hash; first_position: of its first token; rope_applied: whether
    keys are rotated for that position; fidelity: "exact", or the lossy codecs it went through; codec: how frames are packed.
    """

    namespace: str
    block_hash: bytes
    group: int
    heads: tuple[int, int]
    parent: bytes
    tokens: bytes
    extras: bytes = b""
    first_position: int
    rope_applied: bool = True
    layout: KVLayout
    fidelity: str = "exact"
    codec: str = "raw"
    frames: tuple[Frame, ...]

    @property
    def key(self) -> BlockKey:
        return BlockKey(self.namespace, BlockHash(self.block_hash), self.group, self.heads)

    @property
    def token_ids(self) -> list[int]:
        ids: list[int] = np.frombuffer(self.tokens, "<i4").tolist()
        return ids


class BlockContent(msgspec.Struct, frozen=True):
    """What a block's hash stands for. tokens: little-endian int32."""

    parent: bytes
    tokens: bytes
    first_position: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ObjectHeader)


def payload_start(layout: KVLayout) -> int:
    """Bytes before the payload, a multiple of ALIGNMENT: readers can ask for header and frames at once."""
    room = _HEADER_ROOM + _FRAME_ROOM * len(layout.layers)
    return -(-room // ALIGNMENT) * ALIGNMENT


def object_bytes(layout: KVLayout) -> int:
    """Size of a whole object."""
    return payload_start(layout) + layout.block_bytes


def frame_bytes(layout: KVLayout) -> int:
    """Size of one layer's frame."""
    return layout.block_bytes // len(layout.layers)


def encode_header(key: BlockKey, content: BlockContent, layout: KVLayout, payload: memoryview) -> bytes:
    """Everything before the payload. payload: the block's bytes, as they lie on the device."""
    start, size = payload_start(layout), frame_bytes(layout)
    frames = tuple(
        Frame(layer, start + index * size, size, _checksum(payload[index * size : (index + 1) * size]))
        for index, layer in enumerate(layout.layers)
    )
    header = _encoder.encode(
        ObjectHeader(
            namespace=key.namespace,
            block_hash=key.block_hash,
            group=key.group,
            heads=key.heads,
            parent=content.parent,
            tokens=content.tokens,
            first_position=content.first_position,
            layout=layout,
            frames=frames,
        )
    )
    prefix = _PREFIX.pack(_MAGIC, FORMAT_VERSION, 0, len(header), _header_checksum(len(header), header))
    return (prefix + header).ljust(start, b"\0")


def decode_header(data: bytes | bytearray | memoryview) -> ObjectHeader:
    """The header at the start of `data`. Raises ObjectError."""
    if len(data) < _PREFIX.size:
        raise ObjectError("corrupt", f"{len(data)} bytes are too few for an object")
    magic, version, nothing, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise ObjectError("corrupt", "it does not begin like an object")
    if version != FORMAT_VERSION:
        raise ObjectError("version", f"it has format version {version}, this is version {FORMAT_VERSION}")
    header = bytes(data[_PREFIX.size : _PREFIX.size + length])
    if nothing or len(header) != length or _header_checksum(length, header) != checksum:
        raise ObjectError("corrupt", "its header fails its check")
    if any(data[_PREFIX.size + length : -(-(_PREFIX.size + length) // ALIGNMENT) * ALIGNMENT]):
        raise ObjectError("corrupt", "there are bytes between header and payload")
    try:
        return _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise ObjectError("corrupt", f"its header makes no sense: {error}") from error


def check_identity(header: ObjectHeader, key: BlockKey, layout: KVLayout | None = None) -> None:
    """Raises ObjectError unless the object is the one named, exact, and laid out as expected (None = any layout)."""
    if header.key != key:
        raise ObjectError("foreign", "it is another block than its name says")
    expected = block_hash(BlockHash(header.parent), header.tokens, header.extras)
    if header.block_hash != expected:
        raise ObjectError("foreign", "its hash does not follow from its parent and tokens")
    if (header.fidelity, header.codec, header.rope_applied) != ("exact", "raw", True):
        raise ObjectError("foreign", f"its bytes are {header.fidelity}, packed as {header.codec}")
    if layout is not None and header.layout != layout:
        raise ObjectError("foreign", "it is laid out for another model")
    start, size = payload_start(header.layout), frame_bytes(header.layout)
    places = [(layer, start + index * size, size) for index, layer in enumerate(header.layout.layers)]
    if [(frame.layer, frame.offset, frame.bytes) for frame in header.frames] != places:
        raise ObjectError("corrupt", "its frames are not where its layout puts them")


def check_frame(frame: Frame, data: memoryview) -> None:
    """Raises ObjectError unless `data` are the frame's bytes."""
    if len(data) != frame.bytes or _checksum(data) != frame.checksum:
        raise ObjectError("corrupt", f"the bytes of layer {frame.layer} fail their check")


def token_bytes(token_ids: Sequence[int] | npt.NDArray[np.int32]) -> bytes:
    """Token ids as headers hold them."""
    return np.asarray(token_ids, "<i4").tobytes()


def _checksum(data: memoryview | bytes) -> bytes:
    return blake3(data).digest(16)


def _header_checksum(length: int, header: bytes) -> bytes:
    return _checksum(b"%d.%d." % (FORMAT_VERSION, length) + header)
