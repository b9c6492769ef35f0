"""Attention of the native back end by itself: chunks behind a context, and the next token of many short contexts.

A chunk's bound counts its products and its exponentials, which on the machines measured do not overlap:

    seconds = 4 * head_dim * pairs / bf16 rate + OPERATIONS * pairs / vector rate

pairs: query heads times the keys that each row sees. bf16 rate: operations per second of a loop over registers. vector rate:
float32 lanes per second of fused multiply-adds, in such a loop as well. Both are measured in the same run, on the same threads.
OPERATIONS: what an AVX-512 softmax does at least for a score: its share of the largest, a multiply-add to scale and shift it,
the part behind the point, three multiply-adds of a polynomial, the exponent, and two halves of an operation to pack it. The
rest is not in it: bringing keys and values into form, merging splits, what the caches cost.

Many short contexts are held against the fastest read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Say, Summary
from tiercel.bench.programs import KernelProgram, buffer, instruction, open_pool, time_programs
from tiercel.bench.report import Row
from tiercel.bench.shapes import SHAPES
from tiercel.ops.cpu.library import Pool, aligned
from tiercel.ops.cpu.plan import Op
from tiercel.ops.cpu.probe import probe
from tiercel.ops.cpu.step import bind_kv, group_struct, step_struct
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVLayout, ModelConfig

OPERATIONS = 8
CHUNK, BEFORE = 512, (0, 2048, 8192, 32768)
REQUESTS, CONTEXT = 64, 300
MILLI, GIGA = 1e3, 1e9
_NO_ROWS, _NO_SLOTS = np.zeros(0, np.int32), np.zeros(0, np.int64)


@dataclass(frozen=True)
class AttentionTiming:
    """One layer's attention: seconds run by run, pairs of query head and visible key, and bytes of keys and values.

    rows: new tokens of each of `requests`; context: tokens of each, these included.
    """

    model: str
    requests: int
    rows: int
    context: int
    head_dim: int
    seconds: Summary
    pairs: float
    num_bytes: int

    @property
    def operations(self) -> float:
        """Of both products; a multiply-add counts as two."""
        return 4.0 * self.head_dim * self.pairs


def vector_rate(pool: Pool, runs: int) -> float:
    """Float32 lanes per second of fused multiply-adds, on as many threads."""
    lanes = open_pool(pool.threads, "avx512" if pool.level == "amx" else pool.level)
    assert lanes is not None
    return max(probe(lanes, 1) for _ in range(runs)) / 2


def measure_contexts(pool: Pool, shapes: Sequence[str], runs: int, say: Say) -> Iterator[AttentionTiming]:
    """Chunks behind each context of `BEFORE`, then the next token of `REQUESTS` contexts, in each shape."""
    for name in shapes:
        for before in BEFORE:
            say(f"{name}: attention of {CHUNK} rows behind {before:,} tokens")
            yield _measure(pool, name, SHAPES[name], (1, CHUNK, before + CHUNK), 2, runs)
        say(f"{name}: attention of {REQUESTS} requests")
        yield _measure(pool, name, SHAPES[name], (REQUESTS, 1, CONTEXT), SHAPES[name].num_layers, runs)


def _measure(
    pool: Pool, name: str, model: ModelConfig, load: tuple[int, int, int], num_layers: int, runs: int
) -> AttentionTiming:
    """load: requests, rows of each, context of each. Each layer has keys and values of its own."""
    requests, rows, context = load
    layout = KVLayout(tuple(range(num_layers)), model.num_kv_heads, model.head_dim, "bfloat16")
    blocks = -(-context // BLOCK_TOKENS)
    arena = aligned(requests * blocks * layout.block_bytes, 4096)
    values = np.random.default_rng(0).standard_normal(1 << 20, np.float32).view(np.uint32) >> 16
    arena.view(np.uint16)[:] = np.resize(values.astype(np.uint16), len(arena) // 2)
    batch = AttentionBatch(
        query_start=np.arange(requests + 1, dtype=np.int32) * rows,
        q_positions=np.tile(np.arange(context - rows, context, dtype=np.int32), requests),
        block_tables=np.random.default_rng(0).permutation(requests * blocks).astype(np.int32).reshape(requests, blocks),
        lengths=np.full(requests, context, np.int32),
        slot_mapping=_NO_SLOTS,
    )
    group = group_struct(bind_kv(arena, layout), batch)
    step = step_struct(_NO_ROWS, batch.q_positions, _NO_ROWS, requests * rows, [group], None)
    channels = model.num_heads * model.head_dim
    one = instruction(Op.ATTENTION, inputs=[(0, 0, channels), (-1, 0, 0)], out=(1, 0, channels))
    one["heads"], one["real"] = model.num_heads, model.head_dim**-0.5
    layers = np.repeat(one, num_layers)
    layers["layer"] = np.arange(num_layers)
    buffers = [buffer(requests * rows, 4 * channels, seed=0), buffer(requests * rows, 4 * channels)]
    seconds = Summary.of(time_programs([KernelProgram(pool, layers, [], buffers)], step, runs))
    pairs = float(requests * model.num_heads * sum(range(context - rows + 1, context + 1)))
    num_bytes = requests * context * layout.token_bytes // num_layers
    return AttentionTiming(name, requests, rows, context, model.head_dim, seconds, pairs, num_bytes)


def attention_rows(timings: Sequence[AttentionTiming], limits: MachineLimits, lanes: float) -> list[Row]:
    """lanes: see `vector_rate`. One new token per request is held against memory, more against products and exponentials."""
    rows: list[Row] = []
    for timing in timings:
        one = timing.rows == 1
        arithmetic = timing.operations / limits.arithmetic["bf16"] + OPERATIONS * timing.pairs / lanes
        bound = timing.num_bytes / limits.bandwidth if one else arithmetic
        rows.append(
            {
                "model": timing.model,
                "requests": timing.requests,
                "rows": timing.rows,
                "context": timing.context,
                "ms": timing.seconds.scaled(MILLI),
                "GB/s": timing.num_bytes / timing.seconds.median / GIGA,
                "GFLOP/s": timing.operations / timing.seconds.median / GIGA,
                "bound": "memory" if one else "products + exponentials",
                "bound, ms": bound * MILLI,
                "of the bound, %": 100 * bound / timing.seconds.median,
            }
        )
    return rows
