"""The GGUF format, versions 2 and 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

A file is a magic number, typed key-value pairs ("metadata": network, tokenizer, chat template), a table of tensors, and their
bytes, each tensor at a multiple of the alignment. Counts and lengths are 64-bit and not to be trusted: nothing is allocated or
looped over before the file is known to be long enough to hold it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiercel.models.weights import StoredTensor, map_file
from tiercel.types import FORMATS, CheckpointError

NumberArray = npt.NDArray[np.generic]
Metadata = Mapping[str, object]  # bool, int, float, str, list[str] or NumberArray

_MAX_KEY_BYTES = (1 << 16) - 1
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 16
_MIN_PAIR_BYTES = 8 + 4 + 1  # key length, value type, the smallest value
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, dimensions, one of them, format, offset

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, np.dtype[np.generic]] = {
    number: np.dtype(code)
    for number, code in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "?", 10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip

# Tensor formats by number. Those that are not in FORMATS are known by name only.
_FORMAT_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """A parsed file. Tensors carry the names and the row order of the file."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, StoredTensor]


def read_gguf(path: Path) -> GGUFFile:
    """Parses everything but the tensors' bytes, which stay on disk until they are read. Raises CheckpointError."""
    file = map_file(path)
    cursor = _Cursor(path, file)
    tensor_count, pair_count = _read_preamble(cursor)
    metadata = _read_metadata(cursor, pair_count)
    table = _read_table(cursor, tensor_count)
    alignment = _alignment(path, metadata)
    data = file[-(-cursor.position // alignment) * alignment :]
    return GGUFFile(path, metadata, _place(path, table, data, alignment))


class _Cursor:
    """A position in the file that only moves within it."""

    def __init__(self, path: Path, file: npt.NDArray[np.uint8]) -> None:
        self.path = path
        self.position = 0
        self._file = file
        self._bytes = file.data

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message} (at byte {self.position})")

    def expect(self, size: int, what: str) -> None:
        """Raises unless `size` more bytes follow."""
        if size > len(self._bytes) - self.position:
            raise self.error(f"{what} runs past the end of the file; truncated or corrupt")

    def take(self, size: int, what: str) -> memoryview:
        self.expect(size, what)
        self.position += size
        return self._bytes[self.position - size : self.position]

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> str:
        return self._text(self.take(self.uint64(what), what), what)

    def strings(self, count: int, what: str) -> list[str]:
        """`count` strings. Written out flat: a vocabulary has 10^5 of them."""
        self.expect(count * 8, what)
        file, position, size = self._bytes, self.position, len(self._bytes)
        length_at = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            if position + 8 > size:
                raise self.error(f"{what} runs past the end of the file; truncated or corrupt")
            start = position + 8
            position = start + length_at(file, position)[0]
            if position > size:
                raise self.error(f"{what} runs past the end of the file; truncated or corrupt")
            found.append(self._text(file[start:position], what))
        self.position = position
        return found

    def numbers(self, dtype: np.dtype[np.generic], count: int, what: str) -> NumberArray:
        """`count` numbers, as a view of the file where its bytes allow."""
        self.expect(count * dtype.itemsize, what)
        start = self.position
        self.position += count * dtype.itemsize
        raw = self._file[start : self.position]
        return raw != 0 if dtype == np.bool_ else raw.view(dtype)

    def _text(self, raw: memoryview, what: str) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error


def _read_preamble(cursor: _Cursor) -> tuple[int, int]:
    if bytes(cursor.take(4, "the magic number")) != b"GGUF":
        raise CheckpointError(f"{cursor.path} is not a GGUF file: it does not start with the letters GGUF")
    version = cursor.uint32("the version")
    if version & 0xFFFF == 0:
        raise CheckpointError(f"{cursor.path} is a big-endian GGUF file; only little-endian files can be read")
    if version not in (2, 3):
        raise CheckpointError(f"{cursor.path} is GGUF version {version}; versions 2 and 3 can be read")
    tensor_count, pair_count = cursor.uint64("the tensor count"), cursor.uint64("the metadata count")
    cursor.expect(tensor_count * _MIN_TENSOR_BYTES + pair_count * _MIN_PAIR_BYTES, "what the counts promise")
    return tensor_count, pair_count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        key = cursor.string("a metadata key")
        if not 0 < len(key) <= _MAX_KEY_BYTES or key in metadata:
            raise cursor.error(f"the metadata key {key[:80]!r} is empty, too long or there twice")
        metadata[key] = _read_value(cursor, key[:80])
    return metadata


def _read_value(cursor: _Cursor, key: str) -> object:
    kind = cursor.uint32(key)
    if kind == _STRING:
        return cursor.string(key)
    if kind == _ARRAY:
        return _read_array(cursor, key)
    if kind not in _SCALARS:
        raise cursor.error(f"{key} has the unknown type {kind}")
    return cursor.numbers(_SCALARS[kind], 1, key)[0].item()


def _read_array(cursor: _Cursor, key: str) -> object:
    kind, count = cursor.uint32(key), cursor.uint64(key)
    if kind == _STRING:
        return cursor.strings(count, key)
    if kind not in _SCALARS:
        raise cursor.error(f"{key} is an array of {'arrays' if kind == _ARRAY else f'the unknown type {kind}'}")
    return cursor.numbers(_SCALARS[kind], count, key)


@dataclass(frozen=True)
class _TableEntry:
    name: str
    shape: tuple[int, ...]
    format: str
    offset: int


def _read_table(cursor: _Cursor, count: int) -> list[_TableEntry]:
    entries = []
    for _ in range(count):
        name = cursor.string("a tensor name")
        what = f"the table entry of {name[:80]}"
        dimensions = cursor.uint32(what)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise cursor.error(f"{name[:80]} has {dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible")
        shape = tuple(cursor.uint64(what) for _ in range(dimensions))[::-1]  # the file counts from the contiguous one
        if 0 in shape:
            raise cursor.error(f"{name[:80]} has an empty dimension")
        number = cursor.uint32(what)
        entries.append(_TableEntry(name, shape, _FORMAT_NAMES.get(number, f"format {number}"), cursor.uint64(what)))
    if len({entry.name for entry in entries}) != count:
        raise CheckpointError(f"{cursor.path}: two tensors have the same name")
    return entries


def _alignment(path: Path, metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment must be a power of two up to {_MAX_ALIGNMENT}, not {alignment!r:.80}")
    return alignment


def _place(path: Path, table: list[_TableEntry], data: npt.NDArray[np.uint8], alignment: int) -> dict[str, StoredTensor]:
    """Finds each tensor's bytes: inside the file, aligned, not shared."""
    tensors, end = {}, 0
    for entry in sorted(table, key=lambda entry: entry.offset):
        if entry.offset % alignment or entry.offset < end:
            raise CheckpointError(f"{path}: {entry.name[:80]} lies at byte {entry.offset}, which is unaligned or another's")
        end = entry.offset + _stored_bytes(path, entry)
        if end > len(data):
            raise CheckpointError(f"{path}: {entry.name[:80]} runs past the end of the file; truncated download?")
        tensors[entry.name] = StoredTensor(data[entry.offset : end], entry.format, entry.shape)
    return tensors


def _stored_bytes(path: Path, entry: _TableEntry) -> int:
    """Bytes of a tensor; 0 for a format that is known by name only."""
    if entry.format not in FORMATS:
        return 0
    try:
        return prod(entry.shape[:-1]) * FORMATS[entry.format].row_bytes(entry.shape[-1])
    except ValueError as error:
        raise CheckpointError(f"{path}: {entry.name[:80]}: {error}") from error
