"""What a lowered model is: instructions, the constants they read and the buffers they work in."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.packing import Packed


class Op(IntEnum):
    """Numbers of `tiercel_op`."""

    EMBEDDING = 0
    ADD = 1
    RMS_NORM = 2
    LINEAR = 3
    ROPE = 4
    SILU_MUL = 5
    KV_WRITE = 6
    ATTENTION = 7
    SELECT_ROWS = 8
    CONVERT = 9


class BufferSpec(NamedTuple):
    """Working memory of [rows of the step, or its samples] x row_bytes."""

    row_bytes: int
    samples: bool


class Place(NamedTuple):
    """The first channels of a float32 buffer."""

    buffer: int
    channels: int


class LayerStart(NamedTuple):
    """The instruction that first touches a layer's KV. layer: its place within its group."""

    instruction: int
    group: int
    layer: int


@dataclass(frozen=True, eq=False)
class Plan:
    """instructions: [n] tiercel_instruction; results: where a caller finds what the program computes."""

    instructions: npt.NDArray[np.void]
    constants: tuple[Packed, ...]
    buffers: tuple[BufferSpec, ...]
    results: tuple[Place, ...]

    @property
    def layer_starts(self) -> tuple[LayerStart, ...]:
        writes = (i for i in range(len(self.instructions)) if self.instructions[i]["op"] == Op.KV_WRITE)
        return tuple(LayerStart(i, int(self.instructions[i]["group"]), int(self.instructions[i]["layer"])) for i in writes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that a step reads whole: those of all products."""
        products = {int(i["constant"][0]) for i in self.instructions if i["op"] == Op.LINEAR}
        return sum(self.constants[number].num_bytes for number in products)
