"""The kernel benchmark on small shapes."""

from ctypes import c_int32

import pytest

from tests.bench.test_work import HEAD, LAYERS, MODEL
from tiercel.bench import kernels
from tiercel.bench.kernels import (
    AttentionLoad,
    KernelLoad,
    Timing,
    best_bandwidth,
    kernel_rows,
    layer_rows,
    measure_attention,
    measure_kernels,
    working_sets,
)
from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Summary
from tiercel.bench.programs import open_pool

LIMITS = MachineLimits({"somebody": 100.0}, {"bf16": 1000.0, "int8": 4000.0}, {(LAYERS + HEAD) * 34 // 32: 1e9})
LOAD = KernelLoad(["small"], ["BF16", "I8", "Q8_0", "Q4_1", "Q6_K"], [1, 5], [70, 130])


def quiet(text: str) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.SHAPES, "small", MODEL)
    monkeypatch.setattr(kernels, "MEMORY", 2 << 20)
    monkeypatch.setattr(kernels, "PREFILL", AttentionLoad(16, 80))


@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_is_measured(threads: int) -> None:
    pool = open_pool(threads)
    assert pool is not None
    timings = measure_kernels(pool, LOAD, 2, quiet)
    found = [(timing.kernel, timing.format, timing.rows) for timing in timings]
    assert len(found) == len(set(found))
    products = {(kernel, format) for kernel, format, _ in found if " to " in kernel}
    assert len(products) == 5 * 4  # no row of this shape is long enough for Q6_K
    assert ("head 64 to 320", "Q4_1", 5) in found
    assert [key for key in found if "attention" in key[0]] == [
        ("attention, context 70", "BF16", 1),
        ("attention, context 130", "BF16", 1),
        ("attention, context 80", "BF16", 16),
    ]
    assert {("rms norm 64", "F32", 5), ("rope 128", "F32", 5), ("silu 128", "F32", 5)} <= set(found)
    assert {key[0] for key in found if "cop" in key[0] or "blocks" in key[0]} == {
        "copy, plain",
        "blocks, gathered",
        "blocks, gathered as int8",
    }
    assert all(seconds > 0 for timing in timings for seconds in timing.seconds.values)
    assert len(kernel_rows(timings, LIMITS)) == len(timings)


def test_bytes_and_operations_are_those_of_one_layer() -> None:
    pool = open_pool(1)
    assert pool is not None
    timings = {(t.kernel, t.format, t.rows): t for t in measure_kernels(pool, LOAD, 1, quiet)}
    product = timings["gate up 64 to 256", "Q8_0", 5]
    assert (product.num_bytes, product.operations, product.kind) == (256 * 64 * 34 // 32, 2 * 256 * 64 * 5, "int8")
    assert timings["gate up 64 to 256", "I8", 5].num_bytes == 256 * (64 + 4)
    attention = timings["attention, context 80", "BF16", 16]
    assert attention.num_bytes == 80 * 2 * 2 * 32 * 2
    assert attention.operations == 4 * 128 * sum(range(65, 81))


def test_every_request_of_attention_has_blocks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[list[int]] = []

    def noted(programs, step, runs):
        tables.extend(list((c_int32 * 2).from_address(group.block_tables)) for group in step.groups[: step.num_groups])
        assert sum(len(program.plan.instructions) for program in programs) == step.num_groups * MODEL.num_layers
        return [1.0] * runs

    monkeypatch.setattr(kernels, "time_programs", noted)
    pool = open_pool(1)
    assert pool is not None
    list(measure_attention(pool, "small", MODEL, [AttentionLoad(1, 100)], 1, quiet))
    assert tables == [[2 * n, 2 * n + 1] for n in range(32)]


def timing(kernel: str, rows: int, seconds: float, num_bytes: int, operations: float = 0.0, **more: object) -> Timing:
    return Timing("small", kernel, "Q8_0", rows, Summary.once(seconds), num_bytes, operations, "int8", **more)


def test_the_limit_is_whichever_takes_longer() -> None:
    few, many, none = (
        timing("a", 1, 4.0, 200, 100.0),
        timing("b", 64, 4.0, 200, 12e3),
        timing("c", 1, 4.0, 9, activations_only=True),
    )
    memory, arithmetic, neither = kernel_rows([few, many, none], LIMITS)
    assert (memory["limit"], memory["of the limit, %"]) == ("memory", 50.0)
    assert (arithmetic["limit"], arithmetic["of the limit, %"]) == ("int8 products", 75.0)
    assert (neither["limit"], neither["of the limit, %"]) == ("", None)


def test_a_kernel_may_be_the_best_reader() -> None:
    timings = [timing("a", 1, 1.0, 400), timing("b", 2, 1.0, 500), timing("c", 1, 1.0, 600, activations_only=True)]
    assert best_bandwidth(timings, LIMITS) == 400.0
    assert best_bandwidth([], LIMITS) == 100.0


def test_products_add_up_to_a_step() -> None:
    pool_free = [timing(kernels._name(p), 1, 2.0, p.rows * p.columns * 34 // 32) for p in kernels.products(MODEL)]
    (row,) = layer_rows([*pool_free, timing("rope 128", 1, 9.0, 9)], LIMITS)
    assert (row["all products, ms"], row["MB"]) == ((4 * 2 + 1) * 2e3, (LAYERS + HEAD) * 34 / 32 / 1e6)
    assert row["GB/s, read again"] == 1.0


def test_working_sets_are_whole_models() -> None:
    pool = open_pool(1)
    assert pool is not None
    assert working_sets(pool, KernelLoad(["small"], ["BF16", "Q8_0"], [], [])) == [
        2 * (LAYERS + HEAD),
        (LAYERS + HEAD) * 34 // 32,
    ]
