"""A plan with memory: what computes a step in one native call."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import BUFFER, CONSTANT, Pool, ProgramStruct, StepStruct, address, aligned
from tiercel.ops.cpu.packing import matrix_array
from tiercel.ops.cpu.plan import Place, Plan

LayerHook = Callable[[int, int], None]


class NativeProgram:
    """One at a time per pool. Results are good until the next run."""

    def __init__(self, pool: Pool, plan: Plan) -> None:
        self.plan = plan
        self._pool = pool
        self._instructions = np.ascontiguousarray(plan.instructions)
        self._matrices = matrix_array([matrix for packed in plan.constants for matrix in packed.matrices])
        self._constants = np.zeros(len(plan.constants), CONSTANT)
        first = 0
        for entry, packed in zip(self._constants, plan.constants, strict=True):
            entry["first_matrix"], entry["num_matrices"], entry["interleaved"] = first, len(packed.matrices), packed.interleaved
            first += len(packed.matrices)
        self._buffers = np.zeros(len(plan.buffers), BUFFER)
        self._memory: list[npt.NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(plan.buffers)
        self._brought: list[npt.NDArray[np.generic]] = []
        self._capacity = {False: 0, True: 0}
        self._struct = ProgramStruct(
            address(self._instructions),
            address(self._constants),
            address(self._matrices),
            address(self._buffers),
            len(self._instructions),
            len(self._constants),
            len(self._matrices),
            len(self._buffers),
        )

    def bring(self, buffer: int, array: npt.NDArray[np.float32]) -> None:
        """Lets a buffer be an array of the caller's, [rows, channels], which lives as long as the program."""
        self._brought.append(array)
        self._buffers[buffer] = (address(array), array.strides[0])

    def reserve(self, rows: int, samples: int) -> None:
        """Makes room for a step of so many rows and samples. Buffers that were brought stay what they are."""
        for of_samples, wanted in ((False, rows), (True, samples)):
            count = wanted if wanted <= 16 else -(-wanted // 16) * 16  # whole tiles
            if count <= self._capacity[of_samples]:
                continue
            self._capacity[of_samples] = count
            for number, spec in enumerate(self.plan.buffers):
                if spec.samples is of_samples:
                    self._memory[number] = aligned(max(1, count) * spec.row_bytes)
                    self._buffers[number] = (address(self._memory[number]), spec.row_bytes)

    def run(self, step: StepStruct, on_layer: LayerHook | None = None) -> None:
        """All instructions in one native call; with a hook, one call per layer.

        on_layer: called with (group, place of the layer in it) before a step first touches the layer's KV.
        """
        starts = self.plan.layer_starts if on_layer is not None else ()
        begin = 0
        for start in starts:
            self._run(step, begin, start.instruction)
            assert on_layer is not None
            on_layer(start.group, start.layer)
            begin = start.instruction
        self._run(step, begin, len(self._instructions))

    def result(self, place: Place, rows: int) -> npt.NDArray[np.float32]:
        """[rows, channels], a view of working memory."""
        row_bytes = self.plan.buffers[place.buffer].row_bytes
        matrix = self._memory[place.buffer][: rows * row_bytes].view(np.float32).reshape(rows, row_bytes // 4)
        return matrix[:, : place.channels]

    def _run(self, step: StepStruct, first: int, last: int) -> None:
        bad = self._pool.library.tiercel_run(self._pool.handle, self._struct, step, first, last)
        if bad:
            raise RuntimeError(f"instruction {bad - 1} of the program is not one that this library can run")
