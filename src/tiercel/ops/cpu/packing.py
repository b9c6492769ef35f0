"""Weights in the form that kernels read (native/packing.h)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import MATRIX, Pool, address, aligned
from tiercel.ops.dequantize import dequantize
from tiercel.types import ModelError, Weight

PackedDtype = Literal["stored", "bf16", "int8", "int4"]

# Numbers of `tiercel_format`. F16 is a format of files only, I8 (int8 with one scale per row) one that no file has.
F32, BF16, Q8_0, Q4_1, I8 = 0, 1, 2, 4, 9
FORMATS = {"F32": 0, "BF16": 1, "Q8_0": 2, "Q4_0": 3, "Q4_1": 4, "Q5_0": 5, "Q4_K": 6, "Q6_K": 7, "F16": 8, "I8": I8}
_QUANTISED = frozenset({"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"})


@dataclass(frozen=True, eq=False)
class Matrix:
    """One packed matrix [rows, columns]. data: uint8 [bytes], 64-byte aligned."""

    data: npt.NDArray[np.uint8]
    format: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Packed:
    """A constant of a program: matrices joined along their rows, a vector [1, n], or the cosines and sines of a rotation."""

    matrices: tuple[Matrix, ...]
    interleaved: bool = False

    @property
    def rows(self) -> int:
        return sum(matrix.rows for matrix in self.matrices)

    @property
    def columns(self) -> int:
        return self.matrices[0].columns

    @property
    def num_bytes(self) -> int:
        return sum(matrix.data.nbytes for matrix in self.matrices)

    @property
    def reads_bf16(self) -> bool:
        """Whether a product with it takes bf16 activations; `reads_q8`: 8-bit ones. Joined matrices may want both."""
        return any(matrix.format == BF16 for matrix in self.matrices)

    @property
    def reads_q8(self) -> bool:
        return any(matrix.format not in (BF16, I8) for matrix in self.matrices)

    @property
    def reads_i8(self) -> bool:
        return any(matrix.format == I8 for matrix in self.matrices)


def pack(pool: Pool, weights: Sequence[Weight], dtype: PackedDtype, *, table: bool) -> Packed:
    """Matrices are packed one by one, vectors joined. table: tokens' rows, which `int4` keeps at 8 bits."""
    if len(weights[0].shape) == 1:
        return vector(np.concatenate([dequantize(weight) for weight in weights]))
    return Packed(tuple(_matrix(pool, weight, _target(weight, dtype, table)) for weight in weights))


def vector(values: npt.NDArray[np.float32]) -> Packed:
    """A row of float32 [n]."""
    return Packed((plain(values.reshape(1, -1)),))


def plain(values: npt.NDArray[np.float32]) -> Matrix:
    """float32 [rows, columns] as it is."""
    data = aligned(values.nbytes)
    data[:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    return Matrix(data, F32, *values.shape)


def _target(weight: Weight, dtype: PackedDtype, table: bool) -> int:
    stored = weight.format.name
    if dtype == "stored":
        return FORMATS[stored] if stored in _QUANTISED else BF16
    if dtype == "int8":
        return I8
    if dtype == "bf16" or weight.shape[1] % 32:
        return BF16
    return Q8_0 if table else Q4_1


def _matrix(pool: Pool, weight: Weight, target: int) -> Matrix:
    rows, columns = weight.shape
    size = pool.library.tiercel_packed_bytes(target, rows, columns)
    if size < 0:
        raise ModelError(f"a matrix {list(weight.shape)} cannot be packed from {weight.format.name}")
    source, data = np.ascontiguousarray(weight.data), aligned(size, 4096)
    status = pool.library.tiercel_pack(
        pool.handle, FORMATS[weight.format.name], address(source), target, rows, columns, address(data)
    )
    if status:
        raise ModelError(f"a matrix {list(weight.shape)} cannot be packed from {weight.format.name}")
    return Matrix(data, target, rows, columns)


def unpack(matrix: Matrix, pool: Pool) -> npt.NDArray[np.float32]:
    """The values that a packed matrix stands for, float32 [rows, columns]."""
    struct = matrix_array([matrix])
    ids, out = np.arange(matrix.rows, dtype=np.int32), np.empty((matrix.rows, matrix.columns), np.float32)
    pool.library.tiercel_unpack(address(struct), address(ids), matrix.rows, address(out))
    return out


def matrix_array(matrices: Sequence[Matrix]) -> npt.NDArray[np.void]:
    """As [n] tiercel_matrix."""
    array = np.zeros(len(matrices), MATRIX)
    for entry, matrix in zip(array, matrices, strict=True):
        entry["data"], entry["format"] = address(matrix.data), matrix.format
        entry["rows"], entry["columns"] = matrix.rows, matrix.columns
    return array
