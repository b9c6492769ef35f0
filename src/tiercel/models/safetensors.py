"""The safetensors format: https://github.com/huggingface/safetensors#format

A file is the header's length (8 bytes, little-endian), a JSON header, and the tensors' bytes without holes. A large model is
cut into several such files, with an index that says which tensor lies where.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiercel.models.fields import parse_json_object, read_json
from tiercel.models.weights import StoredTensor, StoredWeights, map_file
from tiercel.types import CheckpointError, Weight

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 1 << 25  # 200,000 tensors need less
_MAX_DIMENSIONS = 16
_METADATA = "__metadata__"  # in the header, beside the tensors
_ALIGNMENT = 64  # of the first tensor in files written here: a cache line

_ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def read_safetensors(directory: Path) -> StoredWeights:
    """The weights of a model directory: one file, or shards with an index. Raises CheckpointError."""
    if (directory / INDEX_FILE).exists():
        return StoredWeights(str(directory), _read_shards(directory))
    if (directory / SINGLE_FILE).exists():
        return StoredWeights(str(directory), read_file(directory / SINGLE_FILE))
    raise CheckpointError(f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _read_shards(directory: Path) -> dict[str, StoredTensor]:
    index = read_json(directory / INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX_FILE}: weight_map must be an object that names a file for each tensor")
    shards: dict[str, dict[str, StoredTensor]] = {}
    tensors = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise CheckpointError(f"{directory / INDEX_FILE}: {name[:80]} must lie in a file beside it, not {file_name!r:.80}")
        if file_name not in shards:
            shards[file_name] = read_file(directory / file_name)
        if name not in shards[file_name]:
            raise CheckpointError(f"{directory / file_name} lacks {name}, which the index says it holds")
        tensors[name] = shards[file_name][name]
    return tensors


def read_file(path: Path) -> dict[str, StoredTensor]:
    """All tensors of one file, as views of its mapped bytes. Raises CheckpointError."""
    header, data = _read_header(path)
    header.pop(_METADATA, None)
    entries = [_parse_entry(f"{path}: {name[:80]}", name, entry, data) for name, entry in header.items()]
    _check_layout(path, entries, len(data))
    return {name: tensor for name, _, tensor in entries}


def read_metadata(directory: Path) -> dict[str, str]:
    """The texts that the writer of a model directory's one file left in it; none where there are shards."""
    if (directory / INDEX_FILE).exists():
        return {}
    metadata = _read_header(directory / SINGLE_FILE)[0].get(_METADATA)
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return {name: text for name, text in pairs if isinstance(text, str)}


def write_float32(
    path: Path, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Weight], metadata: Mapping[str, str]
) -> None:
    """Writes one file. Raises OSError.

    weights: of the format F32, with these shapes. Each is asked for once, in the order of the names, and let go: they may
    be made when they are asked for.
    """
    header: dict[str, object] = {_METADATA: {"format": "pt", **metadata}}  # transformers reads no file without the former
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": (start, end)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % _ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in sorted(shapes):
            file.write(weights[name].data.data)


def _read_header(path: Path) -> tuple[dict[str, object], npt.NDArray[np.uint8]]:
    """The header as it stands, and the bytes of the tensors."""
    file = map_file(path)
    if len(file) < 8:
        raise CheckpointError(f"{path} is too short for a safetensors file")
    header_bytes = int.from_bytes(file[:8].tobytes(), "little")
    if header_bytes > min(_MAX_HEADER_BYTES, len(file) - 8):
        raise CheckpointError(f"{path}: header of {header_bytes} bytes in a file of {len(file)}; truncated, or not safetensors")
    header = parse_json_object(file[8 : 8 + header_bytes].tobytes(), f"{path}: header", strict=True)
    return header, file[8 + header_bytes :]


_Entry = tuple[str, int, StoredTensor]  # name, first byte, tensor


def _parse_entry(where: str, name: str, entry: object, data: npt.NDArray[np.uint8]) -> _Entry:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: must be an object")
    element = entry.get("dtype")
    if not isinstance(element, str):
        raise CheckpointError(f"{where}: dtype must be text")
    shape = _sizes(where, "shape", entry.get("shape"))
    offsets = _sizes(where, "data_offsets", entry.get("data_offsets"))
    if len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where}: more than {_MAX_DIMENSIONS} dimensions")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(data):
        raise CheckpointError(f"{where}: data_offsets {offsets} do not lie within the {len(data)} bytes of tensors")
    start, end = offsets
    if element in _ELEMENT_BYTES and end - start != prod(shape) * _ELEMENT_BYTES[element]:
        raise CheckpointError(f"{where}: {element} {list(shape)} does not take {end - start} bytes")
    return name, start, StoredTensor(data[start:end], element, shape)


def _sizes(where: str, key: str, value: object) -> tuple[int, ...]:
    """A list of whole numbers below 2^63."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        raise CheckpointError(f"{where}: {key} must be a list of whole numbers")
    return tuple(value)


def _check_layout(path: Path, entries: list[_Entry], data_bytes: int) -> None:
    """Tensors follow each other without holes or overlap, to the end of the file."""
    end = 0
    for name, start, tensor in sorted(entries, key=lambda entry: (entry[1], entry[2].data.nbytes)):
        if start != end:
            raise CheckpointError(f"{path}: {name} starts at byte {start}, where {end} was due")
        end += tensor.data.nbytes
    if end != data_bytes:
        raise CheckpointError(f"{path}: {data_bytes - end} bytes belong to no tensor; truncated header or corrupt file")
