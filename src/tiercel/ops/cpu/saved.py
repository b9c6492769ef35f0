"""A plan in a file: packed weights with their program, so that a later start maps both.

The file: magic, BLAKE3 of all that follows, length of the header, header (JSON: what the file holds), then instructions and
matrices, each from a multiple of 4096 bytes on. Weights are used where they lie in the page cache. Every byte is checked when a
file is opened, which also brings it there; one that is damaged, cut short, or made by other code counts as none.
"""

import json
import os
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tiercel.ops.cpu.library import INSTRUCTION, library_path
from tiercel.ops.cpu.packing import Matrix, Packed
from tiercel.ops.cpu.plan import BufferSpec, Place, Plan

_MAGIC = b"tiercel program\n"
_CHECKED = len(_MAGIC) + 32  # where the checked part starts
_HEADER = _CHECKED + 8
_PAGE = 4096
_TEMPORARY = ".tmp"
_FORGOTTEN = 3600.0  # seconds after which a file that is still being written is one that nobody writes any more


def save(plan: Plan, path: Path) -> None:
    """Writes the file, whole or not at all. Raises OSError."""
    arrays = [plan.instructions.view(np.uint8).reshape(-1)]
    arrays += [matrix.data for packed in plan.constants for matrix in packed.matrices]
    header = json.dumps(
        {
            "code": _code(),
            "sizes": [array.nbytes for array in arrays],
            "constants": [
                [packed.interleaved, [[matrix.format, matrix.rows, matrix.columns] for matrix in packed.matrices]]
                for packed in plan.constants
            ],
            "buffers": plan.buffers,
            "results": plan.results,
        }
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    descriptor, temporary = tempfile.mkstemp(_TEMPORARY, f"{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            file.write(_MAGIC + bytes(32) + len(header).to_bytes(8, "little") + header)
            for array in arrays:
                file.seek(_next_page(file.tell()))
                file.write(array.data)
            file.truncate(_next_page(file.tell()))
            file.flush()
            digest = _digest(np.memmap(file, np.uint8, mode="r"))
            file.seek(len(_MAGIC))
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _sweep(path: Path) -> None:
    """Removes what writers left that were killed."""
    for left in path.parent.glob(f"{path.name}.*{_TEMPORARY}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _FORGOTTEN:
                left.unlink()


def load(path: Path) -> Plan | None:
    """The plan of a file, with weights mapped; None if there is none that this code can use."""
    try:
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    if len(data) < _HEADER or bytes(data[: len(_MAGIC)]) != _MAGIC or bytes(data[len(_MAGIC) : _CHECKED]) != _digest(data):
        return None
    end = _HEADER + int.from_bytes(bytes(data[_CHECKED:_HEADER]), "little")
    header = json.loads(bytes(data[_HEADER:end]))
    if header["code"] != _code():
        return None
    arrays: list[npt.NDArray[np.uint8]] = []
    for size in header["sizes"]:
        start = _next_page(end)
        end = start + size
        arrays.append(data[start:end])
    matrices = iter(arrays[1:])
    return Plan(
        arrays[0].view(INSTRUCTION),
        tuple(
            Packed(tuple(Matrix(next(matrices), *shape) for shape in shapes), interleaved)
            for interleaved, shapes in header["constants"]
        ),
        tuple(BufferSpec(*spec) for spec in header["buffers"]),
        tuple(Place(*place) for place in header["results"]),
    )


def _digest(data: npt.NDArray[np.uint8]) -> bytes:
    return blake3(data[_CHECKED:].data, max_threads=blake3.AUTO).digest()


@cache
def _code() -> str:
    """Digest of the code that a plan comes from: descriptions of models, their lowering, the library that packs."""
    package = Path(__file__).parents[2]
    hasher = blake3()
    for file in sorted(file for folder in ("layers", "models", "ops") for file in (package / folder).glob("**/*.py")):
        hasher.update(file.read_bytes())
    hasher.update(library_path().read_bytes())
    return hasher.hexdigest()


def _next_page(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE
