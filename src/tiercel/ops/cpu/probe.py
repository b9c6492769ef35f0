"""What the machine gives at best: memory read per second, multiply-adds per second."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tiercel.ops.cpu.library import Pool, address, aligned

READ_BYTES = 1 << 30  # large enough to mean memory rather than cache
_COLUMNS = 4096
_RUNS = 3


@dataclass(frozen=True)
class Rates:
    """read: bytes per second over `read_over` bytes; bf16, int8: operations per second (a multiply-add counts as two)."""

    read: float
    read_over: int
    bf16: float | None
    int8: float | None


def measure_rates(pool: Pool | None, num_bytes: int = READ_BYTES) -> Rates:
    """The best of a few runs on the pool's threads, in about a second. Without a pool numpy's BLAS reads."""
    memory = aligned(max(1, num_bytes // (4 * _COLUMNS)) * 4 * _COLUMNS, 4096)
    memory[:] = 0
    matrix, vector = memory.view(np.float32).reshape(-1, _COLUMNS), np.ones(_COLUMNS, np.float32)

    def read() -> float:
        if pool is not None:
            return probe(pool, 0, memory)
        start = perf_counter()
        np.matmul(matrix, vector)
        return memory.nbytes / (perf_counter() - start)

    def arithmetic(kind: int) -> float | None:
        return None if pool is None else max(probe(pool, kind) for _ in range(_RUNS))

    return Rates(max(read() for _ in range(_RUNS)), memory.nbytes, arithmetic(1), arithmetic(2))


def probe(pool: Pool, kind: int, memory: np.ndarray | None = None) -> float:
    """One run of `tiercel_probe`. kind 0: bytes read per second; 1, 2: bf16 and int8 operations per second."""
    start, size = (None, 0) if memory is None else (address(memory), memory.nbytes)
    return float(pool.library.tiercel_probe(pool.handle, kind, start, size))
