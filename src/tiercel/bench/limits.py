"""What the machine allows at best: no program reads faster than memory delivers, or multiplies faster than the matrix units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from tiercel.bench.programs import KernelProgram, activations, buffer, instruction, plain_step
from tiercel.bench.work import Kind, ModelWork
from tiercel.ops.cpu.library import Pool, aligned
from tiercel.ops.cpu.packing import FORMATS, Matrix, Packed
from tiercel.ops.cpu.plan import Op
from tiercel.ops.cpu.probe import probe

READ_BYTES = 1 << 30  # large enough to mean memory rather than cache
CACHED_BYTES = 200_000_000  # what a step reads may stay in a large cache below this
_COLUMNS = 4096
_AGAIN = 20  # times that a working set is read again
Reader = Callable[[int], float]  # reads so many bytes of memory, and returns the seconds it took


@dataclass(frozen=True)
class MachineLimits:
    """Measured in this run, on the engine's threads.

    reading: bytes per second over `READ_BYTES`, by who read; arithmetic: operations per second (a multiply-add counts as two),
    by kind of numbers; cached: bytes per second when so many bytes are read again and again, by their number.
    """

    reading: Mapping[str, float]
    arithmetic: Mapping[Kind, float]
    cached: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def measure(
        cls, pool: Pool | None, runs: int = 5, *, working_sets: Sequence[int] = (), num_bytes: int | None = None
    ) -> "MachineLimits":
        """pool: threads of the native back end, if it is there; numpy's BLAS reads and multiplies too.

        working_sets: those below `CACHED_BYTES` are read again and again. num_bytes: `READ_BYTES` if not given.
        """
        num_bytes = num_bytes or READ_BYTES
        arithmetic: dict[Kind, float] = {"float32": max(_blas_rate() for _ in range(runs))}
        if pool is not None:
            arithmetic["bf16"] = max(probe(pool, 1) for _ in range(runs))
            arithmetic["int8"] = max(probe(pool, 2) for _ in range(runs))
        readers = _readers(pool, num_bytes)
        reading = {name: num_bytes / min(read(num_bytes) for _ in range(runs)) for name, read in readers.items()}
        small = sorted({size for size in working_sets if size < min(num_bytes, CACHED_BYTES)})
        cached = {size: max(size / min(read(size) for _ in range(_AGAIN)) for read in readers.values()) for size in small}
        return cls(reading, arithmetic, cached)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the best reader."""
        return max(self.reading.values())

    def step(self, work: ModelWork, contexts: Sequence[float]) -> float:
        """Least seconds for one more token of each of some requests: everything is read once, and nothing waits for it."""
        return max(work.step_bytes(contexts) / self.bandwidth, self._seconds(work, len(contexts), len(contexts)))

    def first_token(self, work: ModelWork, prompt_tokens: int) -> float:
        """Least seconds to compute a prompt: every layer for every token, the head for one."""
        attention = work.attention_operations(prompt_tokens) / self.arithmetic[work.attention_kind]
        return max(work.weight_bytes / self.bandwidth, attention + self._seconds(work, prompt_tokens, 1))

    def from_cache(self, work: ModelWork, context: float) -> float | None:
        """Seconds for one more token if what it reads came as fast as a second read of it; None where that was not measured."""
        size = int(work.step_bytes([context]))
        return size / self.cached[size] if size in self.cached else None

    def settings(self) -> dict[str, object]:
        """For a report."""
        reading = {f"GB/s, {name}": round(rate / 1e9, 1) for name, rate in self.reading.items()}
        arithmetic = {f"GFLOP/s, {kind}": round(rate / 1e9) for kind, rate in self.arithmetic.items()}
        cached = {f"GB/s, {size / 1e6:.0f} MB again": round(rate / 1e9, 1) for size, rate in self.cached.items()}
        return {**reading, **arithmetic, **cached}

    def _seconds(self, work: ModelWork, rows: int, samples: int) -> float:
        in_layers = sum(2 * count * rows / self.arithmetic[kind] for kind, count in work.per_row.items())
        return in_layers + sum(2 * count * samples / self.arithmetic[kind] for kind, count in work.per_sample.items())


def _blas_rate(side: int = 1536) -> float:
    square = np.ones((side, side), np.float32)
    start = perf_counter()
    np.matmul(square, square)
    return 2 * side**3 / (perf_counter() - start)


def _readers(pool: Pool | None, num_bytes: int) -> dict[str, Reader]:
    """Ways to read the same memory: bytes that are float32 ones, and as well scales and values of any packed format."""
    memory = aligned(num_bytes, 4096)
    memory.view(np.float32)[:] = 1.0
    tall, vector = memory.view(np.float32).reshape(-1, _COLUMNS), np.ones(_COLUMNS, np.float32)

    def blas(size: int) -> float:
        start = perf_counter()
        np.matmul(tall[: max(1, size // tall.strides[0])], vector)
        return perf_counter() - start

    readers: dict[str, Reader] = {"float32 product": blas}
    if pool is not None:
        readers["plain reading"] = lambda size: size / probe(pool, 0, memory[:size])
        readers |= {f"{name} kernel": _kernel_reader(pool, memory, name) for name in ("BF16", "I8", "Q8_0", "Q4_1")}
    return readers


def _kernel_reader(pool: Pool, memory: np.ndarray, name: str) -> Reader:
    """Reads memory as one tall matrix that is multiplied with one row."""
    panel = int(pool.library.tiercel_packed_bytes(FORMATS[name], 16, _COLUMNS))
    forms = activations(pool, 1, _COLUMNS)
    out, step = buffer(1, 4 * 16 * (len(memory) // panel)), plain_step(1)

    def read(size: int) -> float:
        rows = 16 * max(1, size // panel)
        matrix = Packed((Matrix(memory, FORMATS[name], rows, _COLUMNS),))
        product = instruction(Op.LINEAR, out=(0, 0, rows), in_bf16=1, in_q8=2, in_i8=3, constant=(0, -1))
        program = KernelProgram(pool, product, [matrix], [out, *forms])
        start = perf_counter()
        program.run(step)
        return (perf_counter() - start) * (size / (rows // 16 * panel))

    return read
