"""Each kernel of the native back end by itself, in the shapes of known models, against what the machine allows.

Weights, keys and values come from memory: 1.25 GiB go by before anything is read again. Activations come from the caches, where
the kernel before has left them in a model too.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Say, Summary
from tiercel.bench.programs import KernelProgram, activations, buffer, instruction, plain_step, time_programs
from tiercel.bench.report import Row
from tiercel.bench.shapes import SHAPES, Product, products
from tiercel.bench.work import Kind
from tiercel.ops.cpu.blocks import copy_blocks
from tiercel.ops.cpu.library import Pool, address, aligned
from tiercel.ops.cpu.lowering import form_bytes
from tiercel.ops.cpu.packing import FORMATS, Matrix, Packed, plain, vector
from tiercel.ops.cpu.plan import Op
from tiercel.ops.cpu.step import bind_kv, group_struct, step_struct
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVFormat, KVLayout, ModelConfig
from tiercel.types import FORMATS as STORED

MEMORY = 1280 << 20
MILLI, MICRO, MEGA, GIGA = 1e3, 1e6, 1e6, 1e9
_NO_ROWS, _NO_SLOTS = np.zeros(0, np.int32), np.zeros(0, np.int64)
_NOTHING = (-1, 0, 0)
_COPIED: tuple[KVFormat, KVFormat] = ("bfloat16", "int8")
_REPEATS = 64  # of a kernel that takes microseconds, in one call


@dataclass(frozen=True)
class Timing:
    """One kernel: seconds per call, run by run; what a call reads of weights, keys or values, and its operations by kind.

    activations_only: it reads no weights or KV, or only copies them, and num_bytes are what it reads and writes.
    """

    model: str
    kernel: str
    format: str
    rows: int
    seconds: Summary
    num_bytes: int
    operations: float = 0.0
    kind: Kind = "bf16"
    activations_only: bool = False

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.num_bytes / self.seconds.median


class KernelLoad(NamedTuple):
    """What is measured. shapes: names in `SHAPES`; rows: of products; contexts: tokens that one row of attention sees."""

    shapes: Sequence[str]
    formats: Sequence[str]
    rows: Sequence[int]
    contexts: Sequence[int]


class AttentionLoad(NamedTuple):
    """So many new tokens of one request, and as many tokens of context, these included."""

    rows: int
    context: int


PREFILL = AttentionLoad(512, 4096 + 512)


def measure_kernels(pool: Pool, load: KernelLoad, runs: int, say: Say) -> list[Timing]:
    """Products, attention, and what lies between them, of each shape."""
    timings: list[Timing] = []
    for name in load.shapes:
        model = SHAPES[name]
        attention = [*(AttentionLoad(1, context) for context in load.contexts), PREFILL]
        timings += measure_products(pool, name, model, load.formats, load.rows, runs, say)
        timings += measure_attention(pool, name, model, attention, runs, say)
        timings += measure_rowwise(pool, name, model, load.rows, runs, say)
        timings += measure_block_copies(pool, name, model, runs, say)
    return timings


def measure_products(
    pool: Pool, name: str, model: ModelConfig, formats: Sequence[str], rows: Sequence[int], runs: int, say: Say
) -> Iterator[Timing]:
    """Every product of a layer, and the head, in each packed format that suits its columns."""
    memory = aligned(MEMORY, 4096)
    for product in products(model):
        for format in formats:
            copies = _fill(pool, memory, product, format)
            if copies is None:
                continue
            for count in rows:
                say(f"{name}: {product.name}, {format}, {count} rows")
                programs = _product_programs(pool, copies, count)
                yield Timing(
                    name,
                    _name(product),
                    format,
                    count,
                    Summary.of(time_programs(programs, plain_step(count), runs)),
                    copies[0].data.nbytes,
                    2.0 * product.rows * product.columns * count,
                    "bf16" if format == "BF16" else "int8",
                )


def _fill(pool: Pool, memory: npt.NDArray[np.uint8], product: Product, format: str) -> list[Matrix] | None:
    """Copies of one random matrix, until memory is full; None where the format has no rows of such a length."""
    source_format = "BF16" if format == "I8" else format
    rows, columns, stored = product.rows, product.columns, STORED[source_format]
    if columns % stored.block_values:
        return None
    # Scales are fp16 or bf16: with a high byte below 0x3C each is a number below 1.
    source = np.random.default_rng(0).integers(0, 0x3C, rows * stored.row_bytes(columns), np.uint8)
    size = pool.library.tiercel_packed_bytes(FORMATS[format], rows, columns)
    first = memory[:size]
    numbers = FORMATS[source_format], FORMATS[format]
    pool.library.tiercel_pack(pool.handle, numbers[0], address(source), numbers[1], rows, columns, address(first))
    copies = [memory[start : start + size] for start in range(0, len(memory) - size + 1, size)]
    for copy in copies[1:]:
        copy[:] = first
    return [Matrix(copy, FORMATS[format], rows, columns) for copy in copies]


def _product_programs(pool: Pool, copies: Sequence[Matrix], rows: int) -> list[KernelProgram]:
    """Programs of one product after another. The more rows, the more a product takes, and the shorter they are."""
    forms = activations(pool, rows, copies[0].columns)
    out = buffer(rows, form_bytes("f32", copies[0].rows))
    length = min(len(copies), max(2, 4 * len(copies) // rows))
    programs = []
    for start in range(0, len(copies) - length + 1, length):
        chosen = [Packed((matrix,)) for matrix in copies[start : start + length]]
        products = [
            instruction(Op.LINEAR, out=(0, 0, matrix.rows), in_bf16=1, in_q8=2, in_i8=3, constant=(number, -1))
            for number, matrix in enumerate(chosen)
        ]
        programs.append(KernelProgram(pool, np.concatenate(products), chosen, [out, *forms]))
    return programs


def measure_attention(
    pool: Pool, name: str, model: ModelConfig, loads: Sequence[AttentionLoad], runs: int, say: Say
) -> Iterator[Timing]:
    """All layers of one request, then those of the next, until memory has gone by."""
    layout = KVLayout(tuple(range(model.num_layers)), model.num_kv_heads, model.head_dim, "bfloat16")
    num_blocks = MEMORY // layout.block_bytes
    arena = aligned(num_blocks * layout.block_bytes, 4096)
    values = np.random.default_rng(0).standard_normal(1 << 20, np.float32).view(np.uint32) >> 16
    arena.view(np.uint16)[:] = np.resize(values.astype(np.uint16), len(arena) // 2)
    bound = bind_kv(arena, layout)
    channels = model.num_heads * model.head_dim
    for load in loads:
        say(f"{name}: attention, {load.rows} rows, {load.context:,} tokens")
        batches = _requests(load, num_blocks)
        groups = [group_struct(bound, batch) for batch in batches]
        step = step_struct(_NO_ROWS, batches[0].q_positions, _NO_ROWS, load.rows, groups, None)
        buffers = [buffer(load.rows, 4 * channels, seed=0), buffer(load.rows, 4 * channels)]
        one = instruction(Op.ATTENTION, inputs=[(0, 0, channels), (-1, 0, 0)], out=(1, 0, channels))
        one["heads"], one["real"] = model.num_heads, model.head_dim**-0.5
        layers = np.repeat(one, model.num_layers)
        layers["layer"] = np.arange(model.num_layers)
        programs = []
        for group in range(len(groups)):
            layers["group"] = group
            programs.append(layers.copy())
        if load.rows == 1:  # short: one program of all requests
            programs = [np.concatenate(programs)]
        seconds = time_programs([KernelProgram(pool, each, [], buffers) for each in programs], step, runs)
        keys = sum(range(load.context - load.rows + 1, load.context + 1))
        num_bytes = load.context * layout.token_bytes // model.num_layers
        kernel = f"attention, context {load.context:,}"
        yield Timing(name, kernel, "BF16", load.rows, Summary.of(seconds), num_bytes, 4.0 * channels * keys)


def _requests(load: AttentionLoad, num_blocks: int) -> list[AttentionBatch]:
    """As many requests as the blocks are enough for, each with blocks of its own."""
    size = -(-load.context // BLOCK_TOKENS)
    positions = np.arange(load.context - load.rows, load.context, dtype=np.int32)
    return [
        AttentionBatch(
            query_start=np.array([0, load.rows], np.int32),
            q_positions=positions,
            block_tables=np.arange(first, first + size, dtype=np.int32)[None],
            lengths=np.array([load.context], np.int32),
            slot_mapping=_NO_SLOTS,
        )
        for first in range(0, num_blocks - size + 1, size)
    ]


def measure_rowwise(pool: Pool, name: str, model: ModelConfig, rows: Sequence[int], runs: int, say: Say) -> Iterator[Timing]:
    """What is done to activations between products: a norm that leaves the forms which products read, rope, silu."""
    hidden, mlp, heads = model.hidden_size, model.intermediate_size, model.num_heads * model.head_dim
    angles = np.random.default_rng(0).standard_normal((max(rows), model.head_dim // 2), np.float32)
    norm, tables = vector(np.ones(hidden, np.float32)), Packed((plain(np.cos(angles)), plain(np.sin(angles))))
    for count in rows:
        say(f"{name}: norm, rope, silu, {count} rows")
        wide = buffer(count, 4 * 2 * mlp, seed=0)
        forms = activations(pool, count, max(hidden, mlp))
        kernels = {
            f"rms norm {hidden}": (
                instruction(Op.RMS_NORM, inputs=[(0, 0, hidden), _NOTHING], out_bf16=1, out_q8=2, constant=(0, -1), real=1e-5),
                (4 + 2 + 1) * hidden,
            ),
            f"rope {heads}": (
                instruction(Op.ROPE, inputs=[(0, 0, heads), _NOTHING], out=(0, 0, heads), constant=(1, -1)),
                (4 + 4) * heads,
            ),
            f"silu {mlp}": (
                instruction(Op.SILU_MUL, inputs=[(0, 0, mlp), (0, mlp, mlp)], out_bf16=1, out_q8=2),
                (4 + 4 + 2 + 1) * mlp,
            ),
            f"silu {mlp}, int8 rows": (
                instruction(Op.SILU_MUL, inputs=[(0, 0, mlp), (0, mlp, mlp)], out_i8=3),
                (4 + 4 + 1) * mlp,
            ),
        }
        for kernel, (one, num_bytes) in kernels.items():
            program = KernelProgram(pool, np.repeat(one, _REPEATS), [norm, tables], [wide, *forms])
            seconds = Summary.of(time_programs([program], plain_step(count), runs))
            yield Timing(name, kernel, "F32", count, seconds, num_bytes * count, activations_only=True)


def measure_block_copies(pool: Pool, name: str, model: ModelConfig, runs: int, say: Say) -> Iterator[Timing]:
    """KV blocks gathered from all over an arena, as they are and turned to int8, beside a plain copy by as many threads.

    Bytes are those read and those written.
    """
    say(f"{name}: copies of KV blocks")
    bf16, int8 = (KVLayout(tuple(range(model.num_layers)), model.num_kv_heads, model.head_dim, f) for f in _COPIED)
    count = MEMORY // 2 // bf16.block_bytes
    arena, out = (aligned(count * bf16.block_bytes, 4096) for _ in range(2))
    arena.view(np.uint16)[:] = 0x3F80
    out[:] = 0
    pairs = np.stack([np.random.default_rng(0).permutation(count), np.arange(count)], axis=1).astype(np.int32)
    parts = list(zip(np.array_split(out, pool.threads), np.array_split(arena, pool.threads), strict=True))
    with ThreadPoolExecutor(pool.threads) as threads:
        work: dict[str, tuple[Callable[[], object], int]] = {
            "copy, plain": (lambda: list(threads.map(lambda part: np.copyto(*part), parts)), bf16.block_bytes),
            "blocks, gathered": (lambda: copy_blocks(pool, arena, bf16, out, bf16, pairs), bf16.block_bytes),
            "blocks, gathered as int8": (lambda: copy_blocks(pool, arena, bf16, out, int8, pairs), int8.block_bytes),
        }
        for kernel, (run, written) in work.items():
            times = time_calls(run, runs)
            num_bytes = count * (bf16.block_bytes + written)
            yield Timing(name, kernel, "BF16", count * BLOCK_TOKENS, Summary.of(times), num_bytes, activations_only=True)


def time_calls(run: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each of several calls, after a warm-up."""
    times = []
    for _ in range(runs + 1):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return times[1:]


def kernel_rows(timings: Sequence[Timing], limits: MachineLimits) -> list[Row]:
    """One row per kernel. The limit is memory or the matrix units, whichever leaves it more time to take; activations come
    from the caches, so there is none for what reads nothing else."""
    bandwidth = best_bandwidth(timings, limits)
    rows: list[Row] = []
    for timing in timings:
        memory, arithmetic = timing.num_bytes / bandwidth, timing.operations / limits.arithmetic[timing.kind]
        limit = "" if timing.activations_only else "memory" if memory > arithmetic else f"{timing.kind} products"
        rows.append(
            {
                "model": timing.model,
                "kernel": timing.kernel,
                "format": timing.format,
                "rows": timing.rows,
                "us": timing.seconds.scaled(MICRO),
                "GB/s": timing.rate / GIGA,
                "GFLOP/s": timing.operations / timing.seconds.median / GIGA if timing.operations else None,
                "limit": limit,
                "of the limit, %": 100 * max(memory, arithmetic) / timing.seconds.median if limit else None,
            }
        )
    return rows


def best_bandwidth(timings: Sequence[Timing], limits: MachineLimits) -> float:
    """Bytes per second of whoever read memory fastest: the readers of the limits, or one of the kernels at one row."""
    kernels = [timing.rate for timing in timings if timing.rows == 1 and not timing.activations_only]
    return max([limits.bandwidth, *kernels])


def layer_rows(timings: Sequence[Timing], limits: MachineLimits) -> list[Row]:
    """Each model's products together, per format and number of rows: what a step would take if it had nothing else to do, and
    how fast the same bytes are read again and again where that was measured."""
    times = {(name, _name(product)): product.times for name, model in SHAPES.items() for product in products(model)}
    bandwidth = best_bandwidth(timings, limits)
    together: dict[tuple[str, str, int], list[tuple[float, int, float]]] = {}
    for timing in timings:
        count = times.get((timing.model, timing.kernel))
        if count is not None:
            least = max(timing.num_bytes / bandwidth, timing.operations / limits.arithmetic[timing.kind])
            figures = count * timing.seconds.median, count * timing.num_bytes, count * least
            together.setdefault((timing.model, timing.format, timing.rows), []).append(figures)
    rows: list[Row] = []
    for (name, format, count), several in together.items():
        seconds, num_bytes, least = (sum(figures) for figures in zip(*several, strict=True))
        rows.append(
            {
                "model": name,
                "format": format,
                "rows": count,
                "all products, ms": seconds * MILLI,
                "MB": num_bytes / MEGA,
                "GB/s": num_bytes / seconds / GIGA,
                "of the limit, %": 100 * least / seconds,
                "GB/s, read again": limits.cached[num_bytes] / GIGA if num_bytes in limits.cached else None,
            }
        )
    return rows


def working_sets(pool: Pool, load: KernelLoad) -> list[int]:
    """Bytes of all matrices of each shape, in each format."""
    sizes = pool.library.tiercel_packed_bytes
    return [
        sum(sizes(FORMATS[format], p.rows, p.columns) * p.times for p in products(SHAPES[name]))
        for name in load.shapes
        for format in load.formats
    ]


def _name(product: Product) -> str:
    return f"{product.name} {product.columns} to {product.rows}"
