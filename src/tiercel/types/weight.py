"""Weights as they leave a file: bytes, a format and a shape. Never tensors."""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class WeightFormat:
    """How values become bytes: runs of `block_values` consecutive values of a row take `block_bytes` bytes."""

    name: str
    block_values: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` values."""
        blocks, rest = divmod(columns, self.block_values)
        if rest:
            raise ValueError(f"{self.name} needs rows of a multiple of {self.block_values} values, not {columns}")
        return blocks * self.block_bytes


# Names and sizes of the GGUF formats: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
FORMATS: dict[str, WeightFormat] = {
    f.name: f
    for f in (
        WeightFormat("F32", 1, 4),
        WeightFormat("F16", 1, 2),
        WeightFormat("BF16", 1, 2),
        WeightFormat("Q4_0", 32, 18),
        WeightFormat("Q4_1", 32, 20),
        WeightFormat("Q5_0", 32, 22),
        WeightFormat("Q8_0", 32, 34),
        WeightFormat("Q4_K", 256, 144),
        WeightFormat("Q6_K", 256, 210),
    )
}


@dataclass(frozen=True, eq=False)
class Weight:
    """One tensor of a checkpoint. `data` is usually a view of a memory-mapped file.

    data: uint8 [bytes]; shape: row-major, last dimension contiguous, e.g. [out_features, in_features].
    """

    data: npt.NDArray[np.uint8]
    format: WeightFormat
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        expected = prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])
        if self.data.nbytes != expected:
            raise ValueError(f"a {self.format.name} tensor {self.shape} takes {expected} bytes, not {self.data.nbytes}")

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """The bytes as [rows, row_bytes]; rows can be cut and reordered in any format."""
        return self.data.reshape(prod(self.shape[:-1]), self.format.row_bytes(self.shape[-1]))
