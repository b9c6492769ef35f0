"""What the machine allows: by hand for a small network, and measured on this one."""

from math import isfinite

import pytest

from tiercel.bench.limits import MachineLimits
from tiercel.bench.programs import open_pool
from tiercel.bench.work import ModelWork, Reach

WORK = ModelWork(
    weight_bytes=1000,
    kv=(Reach(token_bytes=10, window=None), Reach(token_bytes=4, window=50)),
    per_row={"int8": 300, "bf16": 100},
    per_sample={"int8": 50},
    attention_per_key=7,
    attention_kind="bf16",
)


def limits(bandwidth: float, rate: float, cached: dict[int, float] | None = None) -> MachineLimits:
    return MachineLimits({"slow": bandwidth / 2, "fast": bandwidth}, {"int8": 2 * rate, "bf16": rate}, cached or {})


def test_the_best_reader_counts() -> None:
    assert limits(6.0, 1.0).bandwidth == 6.0


def test_a_token_costs_reading() -> None:
    far = limits(bandwidth=2.0, rate=1e9)
    assert far.step(WORK, [30]) == (1000 + 30 * 14) / 2
    assert far.step(WORK, [30, 80]) == (1000 + 30 * 14 + 80 * 10 + 50 * 4) / 2


def test_many_tokens_cost_arithmetic() -> None:
    busy = limits(bandwidth=1e9, rate=2.0)
    assert busy.step(WORK, [1] * 8) == 8 * (2 * 300 / 4 + 2 * 100 / 2 + 2 * 50 / 4)


def test_a_prompt_costs_arithmetic() -> None:
    attention = 2 * 7 * (1 + 2 + 3) / 2.0
    assert limits(1e9, 2.0).first_token(WORK, 3) == attention + 3 * (2 * 300 / 4 + 2 * 100 / 2) + 2 * 50 / 4
    assert limits(1e-3, 1e9).first_token(WORK, 3) == 1e6


def test_from_cache_only_what_was_measured() -> None:
    size = 1000 + 10 * 14
    assert limits(1.0, 1.0, {size: 5.0}).from_cache(WORK, 10) == size / 5.0
    assert limits(1.0, 1.0, {size: 5.0}).from_cache(WORK, 11) is None


def sane(measured: MachineLimits) -> None:
    for rate in (*measured.reading.values(), *measured.arithmetic.values(), *measured.cached.values()):
        assert 1e8 < rate < 1e16
        assert isfinite(rate)


def test_this_machine_with_numpy_alone() -> None:
    measured = MachineLimits.measure(None, runs=1, working_sets=[1 << 20, 1 << 40], num_bytes=16 << 20)
    sane(measured)
    assert (list(measured.reading), list(measured.arithmetic), list(measured.cached)) == (
        ["float32 product"],
        ["float32"],
        [1 << 20],
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_this_machine_with_its_kernels(threads: int) -> None:
    measured = MachineLimits.measure(open_pool(threads), runs=1, working_sets=[1 << 20], num_bytes=16 << 20)
    sane(measured)
    assert len(measured.reading) == 6
    assert set(measured.arithmetic) == {"float32", "bf16", "int8"}
    assert set(measured.settings()) >= {"GB/s, plain reading", "GB/s, BF16 kernel", "GFLOP/s, int8", "GB/s, 1 MB again"}
