"""A plan in a file: packed weights with their program, so that a later start maps both.

The file: magic, length of the header, header (JSON: what the file holds and where), instructions, matrices; every array starts
at a multiple of 4096 bytes. Weights are used where they lie in the page cache. A file that is not whole, or of another version,
counts as none: files are written beside their name and renamed when they are complete.
"""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import ABI, INSTRUCTION
from tiercel.ops.cpu.packing import Matrix, Packed
from tiercel.ops.cpu.plan import BufferSpec, Place, Plan

VERSION = 1
_MAGIC = b"tiercel program\n"
_PAGE = 4096


def save(plan: Plan, path: Path) -> None:
    """Writes the file, whole or not at all. Raises OSError."""
    arrays = [plan.instructions.view(np.uint8).reshape(-1)]
    arrays += [matrix.data for packed in plan.constants for matrix in packed.matrices]
    header = json.dumps(
        {
            "version": [VERSION, ABI, INSTRUCTION.itemsize],
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
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
            for array in arrays:
                file.seek(_next_page(file.tell()))
                file.write(array.data)
            file.truncate(_next_page(file.tell()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: Path) -> Plan | None:
    """The plan of a file, with weights mapped; None if there is none that this version can use."""
    try:
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    start = len(_MAGIC) + 8
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        return None
    end = start + int.from_bytes(bytes(data[len(_MAGIC) : start]), "little")
    try:
        header = json.loads(bytes(data[start:end]))
    except ValueError:
        return None
    if header["version"] != [VERSION, ABI, INSTRUCTION.itemsize]:
        return None
    arrays: list[npt.NDArray[np.uint8]] = []
    for size in header["sizes"]:
        end = _next_page(end)
        arrays.append(data[end : end + size])
        end += size
    if _next_page(end) != len(data):
        return None
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


def _next_page(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE
