"""Single kernels of the native back end as programs: one instruction over and over, each time on other memory."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import INSTRUCTION, Pool, StepStruct, aligned
from tiercel.ops.cpu.lowering import FORMS, form_bytes
from tiercel.ops.cpu.packing import Packed
from tiercel.ops.cpu.plan import BufferSpec, Op, Plan
from tiercel.ops.cpu.program import NativeProgram
from tiercel.ops.cpu.step import step_struct
from tiercel.types import ModelError

Buffer = npt.NDArray[np.float32]  # [rows, row bytes / 4], whatever it holds
_NO_ROWS = np.zeros(0, np.int32)
_POSITIONS = np.arange(1 << 16, dtype=np.int32)  # of the rows of any step here, which keeps their address only


def open_pool(threads: int, level: str = "auto") -> Pool | None:
    """Threads of the native back end; None where it was not built or does not run."""
    try:
        return Pool(threads, level)
    except ModelError:
        return None


def instruction(op: Op, **fields: object) -> npt.NDArray[np.void]:
    """[1] tiercel_instruction that waits for the one before; what is not given is none."""
    entry = np.zeros(1, INSTRUCTION)
    for name in ("inputs", "out", "in_bf16", "in_q8", "in_i8", "out_bf16", "out_q8", "out_i8", "constant"):
        entry[name] = -1
    entry["op"], entry["barrier"] = op, 1
    for name, value in fields.items():
        entry[name] = value
    return entry


class KernelProgram(NativeProgram):
    """Instructions over buffers that the caller made, numbered in order."""

    def __init__(
        self, pool: Pool, instructions: npt.NDArray[np.void], constants: Sequence[Packed], buffers: Sequence[Buffer]
    ) -> None:
        specs = tuple(BufferSpec(buffer.strides[0], samples=False) for buffer in buffers)
        super().__init__(pool, Plan(instructions, tuple(constants), specs, ()))
        for number, buffer in enumerate(buffers):
            self.bring(number, buffer)


def plain_step(rows: int) -> StepStruct:
    """A step of so many rows that reads no KV; their positions count from 0."""
    return step_struct(_POSITIONS, _POSITIONS, _NO_ROWS, rows, [], None)


def buffer(rows: int, row_bytes: int, seed: int | None = None) -> Buffer:
    """Aligned memory, of normal float32 values if there is a seed."""
    stride = -(-row_bytes // 64) * 64
    memory = aligned(rows * stride).view(np.float32).reshape(rows, stride // 4)
    if seed is not None:
        memory[:] = np.random.default_rng(seed).standard_normal(memory.shape, np.float32)
    return memory


def activations(pool: Pool, rows: int, columns: int) -> list[Buffer]:
    """Random values [rows, columns] in the forms that products read: bf16, q8, i8."""
    values = buffer(rows, 4 * columns, seed=0)
    whole_tiles = rows if rows <= 16 else -(-rows // 16) * 16
    forms = [buffer(whole_tiles, form_bytes(kind, columns)) for kind in FORMS]
    convert = instruction(Op.CONVERT, inputs=[(0, 0, columns), (-1, 0, 0)], out_bf16=1, out_q8=2, out_i8=3)
    KernelProgram(pool, convert, [], [values, *forms]).run(plain_step(rows))
    return forms


def time_programs(programs: Sequence[KernelProgram], step: StepStruct, runs: int) -> list[float]:
    """Seconds per instruction in each of several runs, of the programs in turns, after a warm-up."""
    programs[0].run(step)
    times = []
    for run in range(runs):
        program = programs[(run + 1) % len(programs)]
        start = perf_counter()
        program.run(step)
        times.append((perf_counter() - start) / len(program.plan.instructions))
    return times
