"""The stored form of a block: a framed object that says what it is and proves it.

    prefix   magic, header length, checksum of the header
    header   what the block is (`ObjectHeader`), with one `Frame` per layer: where its bytes lie and their checksum
    zeros    up to a multiple of 4,096
    payload  the frames, in layer order; inside a frame [k or v, head, token, dim], as `KVLayout` has it

Every byte is covered by a check of its own: nothing of a header is used before the header's checksum, nothing of a frame before
that frame's. The header repeats the key, and its hash must follow from its parent and tokens: a file under another's name is
found out. A header has one spelling, and no reader skips a field it does not know: a new field is a new format version. Every
version begins with the same magic and its number.
"""

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tiercel.kv.block import BlockContent
from tiercel.kv.hashing import block_hash
from tiercel.types import BLOCK_TOKENS, FORMAT_VERSION, BlockHash, BlockKey, KVLayout

ALIGNMENT = 4096
LARGEST_OBJECT = 1 << 30  # bytes; what claims to be larger is refused before anything is made room for
_MAGIC = b"TIERCEL\x00"
_PREFIX = struct.Struct("<8sHHI16s")  # magic, format version, nothing, header length, header checksum
PREFIX_BYTES = _PREFIX.size
_HEADER_ROOM = 1024  # for all header fields but the frames
_FRAME_ROOM = 48  # for one frame
_LONGEST_HEADER = 1 << 20
_HASH_BYTES = 32

Checksum = bytes  # BLAKE3, cut to 16 bytes
Data = bytes | bytearray | memoryview


class ObjectError(Exception):
    """An object that must not be used: corrupt (it fails a check), of another format version, or foreign (another block)."""

    def __init__(self, reason: Literal["corrupt", "version", "foreign"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One layer's bytes as they are stored. offset: from the start of the object."""

    layer: int
    offset: int
    bytes: int
    checksum: Checksum


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
    def content(self) -> BlockContent:
        return BlockContent(BlockHash(self.parent), self.tokens, self.first_position)

    @property
    def token_ids(self) -> list[int]:
        return parse_tokens(self.tokens)


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
    if len(prefix) + len(header) > start:
        raise ValueError(f"a header of {len(header)} bytes has no room before a payload that begins at {start}")
    return (prefix + header).ljust(start, b"\0")


def header_end(data: Data) -> int:
    """Bytes that `decode_header` needs of an object of which `data` are the first PREFIX_BYTES or more. Raises ObjectError."""
    return PREFIX_BYTES + _read_prefix(data)[0]


def decode_header(data: Data) -> ObjectHeader:
    """The header at the start of `data`, which must make sense in itself. Raises ObjectError.

    data: the object's bytes from its start. The zeros behind the header are checked as far as `data` reaches.
    """
    length, checksum = _read_prefix(data)
    encoded = bytes(data[PREFIX_BYTES : PREFIX_BYTES + length])
    if _header_checksum(length, encoded) != checksum:
        raise ObjectError("corrupt", "its header fails its check")
    try:
        header = _decoder.decode(encoded)
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise ObjectError("corrupt", f"its header makes no sense: {error}") from error
    if _encoder.encode(header) != encoded:
        raise ObjectError("corrupt", "its header says more than a header of this version can say")
    _check_sense(header)
    padding = bytes(data[PREFIX_BYTES + length : payload_start(header.layout)])
    if padding.strip(b"\0"):
        raise ObjectError("corrupt", "there are bytes between header and payload")
    return header


def check_identity(header: ObjectHeader, key: BlockKey, layout: KVLayout | None = None) -> None:
    """Raises ObjectError unless the object is the one named, exact, and laid out as expected (None = any layout)."""
    if header.key != key:
        raise ObjectError("foreign", "it is another block than its name says")
    expected = block_hash(BlockHash(header.parent), header.tokens, header.extras)
    if header.block_hash != expected:
        raise ObjectError("foreign", "its hash does not follow from its parent and tokens")
    if (header.fidelity, header.codec, header.rope_applied) != ("exact", "raw", True):
        raise ObjectError("foreign", f"its bytes are {header.fidelity!r:.40}, packed as {header.codec!r:.40}")
    if layout is not None and header.layout != layout:
        raise ObjectError("foreign", "it is laid out for another model")


def check_frame(frame: Frame, data: memoryview) -> None:
    """Raises ObjectError unless `data` are the frame's bytes."""
    if _checksum(data) != frame.checksum:
        raise ObjectError("corrupt", f"the bytes of layer {frame.layer} fail their check")


def check_object(data: memoryview, key: BlockKey) -> ObjectHeader:
    """The header of a whole object of which every byte is as it was written under `key`. Raises ObjectError."""
    header = decode_header(data)
    check_identity(header, key)
    expected = object_bytes(header.layout)
    if len(data) != expected:
        raise ObjectError("corrupt", f"it has {len(data)} bytes where its layout takes {expected}")
    for frame in header.frames:
        check_frame(frame, data[frame.offset : frame.offset + frame.bytes])
    return header


def token_bytes(token_ids: Sequence[int] | npt.NDArray[np.int32]) -> bytes:
    """Token ids as headers hold them."""
    return np.asarray(token_ids, "<i4").tobytes()


def parse_tokens(tokens: bytes) -> list[int]:
    """Token ids from what headers hold."""
    ids: list[int] = np.frombuffer(tokens, "<i4").tolist()
    return ids


def _read_prefix(data: Data) -> tuple[int, Checksum]:
    """Length and checksum of the header."""
    if len(data) < PREFIX_BYTES:
        raise ObjectError("corrupt", f"{len(data)} bytes are too few for an object")
    magic, version, nothing, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise ObjectError("corrupt", "it does not begin like an object")
    if version != FORMAT_VERSION:
        raise ObjectError("version", f"it has format version {version}, this is version {FORMAT_VERSION}")
    if nothing or length > _LONGEST_HEADER:
        raise ObjectError("corrupt", "its header fails its check")
    return length, checksum


def _check_sense(header: ObjectHeader) -> None:
    """Raises ObjectError unless the fields fit each other and describe something that can exist."""
    layout = header.layout
    if layout.block_tokens != BLOCK_TOKENS or len(header.tokens) != 4 * BLOCK_TOKENS:
        raise ObjectError("corrupt", f"it is not a block of {BLOCK_TOKENS} tokens")
    if len(header.block_hash) != _HASH_BYTES or len(header.parent) != _HASH_BYTES:
        raise ObjectError("corrupt", f"its hashes are not of {_HASH_BYTES} bytes")
    if min(*layout.layers, *header.heads, header.group, header.first_position) < 0:
        raise ObjectError("corrupt", "it counts below zero")
    if not layout.layers or header.heads[1] != layout.num_kv_heads or min(layout.num_kv_heads, layout.head_dim) < 1:
        raise ObjectError("corrupt", "its layout is none")
    if object_bytes(layout) > LARGEST_OBJECT:
        raise ObjectError("corrupt", "its layout is larger than any block")
    start, size = payload_start(layout), frame_bytes(layout)
    places = [(layer, start + index * size, size) for index, layer in enumerate(layout.layers)]
    if [(frame.layer, frame.offset, frame.bytes) for frame in header.frames] != places:
        raise ObjectError("corrupt", "its frames are not where its layout puts them")


def _checksum(data: memoryview | bytes) -> Checksum:
    return blake3(data).digest(16)


def _header_checksum(length: int, header: bytes) -> Checksum:
    return _checksum(b"%d.%d." % (FORMAT_VERSION, length) + header)
