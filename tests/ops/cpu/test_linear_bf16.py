"""Products with BF16 weights against numpy in the same order of arithmetic: equal bits at every level and thread count."""

from collections import namedtuple
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tiercel.ops.cpu.library import (
    BUFFER,
    CONSTANT,
    INSTRUCTION,
    LEVELS,
    MATRIX,
    Pool,
    ProgramStruct,
    StepStruct,
    address,
    aligned,
    best_level,
)

LINEAR, F32, BF16 = 3, 0, 1
OFFSET, SPARE = 16, 8  # channels in front of and behind a result
POOLS = [(level, threads) for level in LEVELS[: LEVELS.index(best_level()) + 1] for threads in (1, 2, 3, 4)]
Product = namedtuple("Product", "x parts bias residual")  # bf16 [rows, K], bf16 [out, K] each, float32 [out], [rows, out]
# Rows; channels of each part; columns; bias; residual.
SHAPES = [
    (1, (896,), 896, False, False),
    (1, (1,), 1, True, True),
    (2, (16,), 32, False, True),
    (3, (33, 16, 7), 40, True, False),
    (8, (40,), 200, True, True),
    (9, (24, 8), 96, False, False),
    (15, (100, 20), 64, True, True),
    (16, (48,), 320, False, True),
    (17, (31,), 352, True, False),
    (31, (17, 1), 72, True, True),
    (32, (64,), 128, False, False),
    (33, (65,), 33, True, True),
    (47, (32, 32), 96, False, True),
    (64, (96,), 160, True, False),
    (70, (19, 50), 100, True, True),
    (2, (700, 500), 1500, True, True),  # several runs of panels
    (34, (150,), 1000, False, True),  # and several strips of rows
    (20, (1300,), 32, True, False),  # more panels in a run than sums wait at a time
    (64, (40, 0, 24), 300, False, True),  # a part without rows
    (65, (33,), 64, False, False),
    (80, (64, 48), 700, False, False),  # several chunks of columns
    (81, (48,), 320, True, False),
    (128, (20, 32), 1100, False, True),  # sums of all panels wait between chunks
    (200, (64,), 288, False, False),
    (530, (32, 17), 96, False, False),  # several blocks of rows
]


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1]}", scope="module")
def pool(request):
    level, threads = request.param
    return Pool(threads, level)


# -- the kernel -------------------------------------------------------------------------------------------------------------


def packed(weights):
    """bf16 [out, K] as panels [groups of 32 columns][16 column pairs][16 rows][2]."""
    rows, columns = weights.shape
    whole = np.zeros((-(-rows // 16) * 16, -(-columns // 32) * 32), np.uint16)
    whole[:rows, :columns] = weights
    panels = whole.reshape(-1, 16, whole.shape[1] // 32, 16, 2).transpose(0, 2, 3, 1, 4)
    data = aligned(whole.nbytes)
    data[:] = np.ascontiguousarray(panels).view(np.uint8).reshape(-1)
    return data


def in_tiles(x):
    """bf16 [rows, K] as tiles [blocks of 16 rows][groups of 32 columns][rows of a block][32]; other rows are NaN."""
    rows, columns = x.shape
    block = max(1, min(rows, 16))
    whole = np.full((-(-rows // block) * block, -(-columns // 32) * 32), 0xFFFF, np.uint16)
    whole[:rows] = 0
    whole[:rows, :columns] = x
    tiles = whole.reshape(-1, block, whole.shape[1] // 32, 32).transpose(0, 2, 1, 3)
    data = aligned(whole.nbytes)
    data[:] = np.ascontiguousarray(tiles).view(np.uint8).reshape(-1)
    return data


def rows_of(rows, row_bytes):
    """A buffer of such rows, full of what may neither be read nor changed: NaN in float32 and bf16."""
    row_bytes = -(-row_bytes // 64) * 64
    data = aligned(rows * row_bytes)
    data[:] = 0xFF
    return data, data.reshape(rows, row_bytes)


def run(pool, product, in_place=False):
    """The product as the instruction computes it; in_place: the residual's buffer becomes the result."""
    x, parts, bias, residual = product
    rows = len(x)
    channels = sum(len(part) for part in parts)
    x_data = in_tiles(x)
    out_data, out_rows = rows_of(rows, 4 * (OFFSET + channels + SPARE))
    out = out_rows.view(np.float32)[:, OFFSET : OFFSET + channels]
    more_data, more_rows = (out_data, out_rows) if in_place else rows_of(rows, 4 * (OFFSET + channels))
    if residual is not None:
        more_rows.view(np.float32)[:, OFFSET : OFFSET + channels] = residual
    buffers = np.array([(address(data), len(data) // max(1, rows)) for data in (x_data, more_data, out_data)], BUFFER)
    data = [packed(part) for part in parts]
    matrices = [(address(d), BF16, *part.shape, 0) for d, part in zip(data, parts, strict=True)]
    if bias is not None:
        matrices.append((address(bias), F32, 1, channels, 0))
    instruction = np.zeros(1, INSTRUCTION)
    instruction["op"] = LINEAR
    instruction["inputs"] = [(1 if residual is not None else -1, OFFSET, channels), (-1, 0, 0)]
    instruction["out"] = (1 if in_place else 2, OFFSET, channels)
    instruction["in_bf16"], instruction["in_q8"], instruction["in_i8"] = 0, -1, -1
    instruction["out_bf16"] = instruction["out_q8"] = instruction["out_i8"] = -1
    instruction["constant"] = (0, 1 if bias is not None else -1)
    constants = np.array([(0, len(parts), 0, 0), (len(parts), 1, 0, 0)], CONSTANT)
    entries = np.array(matrices, MATRIX)
    tables = (address(array) for array in (instruction, constants, entries, buffers))
    program = ProgramStruct(*tables, 1, 2, len(entries), len(buffers))
    step = StepStruct(rows, rows, 0, 0, None, None, None, None, None)
    assert pool.library.tiercel_run(pool.handle, program, step, 0, 1) == 0
    result = out.copy()
    out.view(np.uint8)[:] = 0xFF
    assert np.all(out_data == 0xFF)  # nothing else was written
    return result


# -- the same in numpy ------------------------------------------------------------------------------------------------------


def floats(bf16):
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def flushed(values):
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(values.dtype.type(0), values), values)


def reference(product, dtype=np.float32):
    """Products of two bf16 values are exact in float32, so that to multiply and to add is one fused operation."""
    x, weights = (
        np.pad(flushed(floats(m)), ((0, 0), (0, -m.shape[1] % 32))).astype(dtype)
        for m in (product.x, np.concatenate(product.parts))
    )
    x, weights = x.reshape(len(x), 1, -1, 16, 2), weights.reshape(1, len(weights), -1, 16, 2)
    chains = np.zeros((x.shape[0], weights.shape[1], x.shape[2], 2), np.float32)
    for pair in range(16):
        chains = flushed((x[..., pair, :] * weights[..., pair, :] + chains).astype(np.float32))
    groups = flushed(chains[..., 0] + chains[..., 1])
    total = np.zeros(groups.shape[:2], np.float32)
    for group in range(groups.shape[2]):
        total = flushed(total + groups[..., group])
    total = total if product.bias is None else total + product.bias
    return total if product.residual is None else total + product.residual


def random_bf16(rng, *shape, low=120, high=134):
    """bf16 of both signs with exponents low .. high - 1 (127: magnitudes from 1 to 2), and some zeros."""
    bits = rng.integers(low << 7, high << 7, shape) | rng.integers(0, 2, shape) << 15
    return np.where(rng.random(shape) < 0.05, 0, bits).astype(np.uint16)


def random_product(seed, rows, parts, columns, bias, residual, **exponents):
    rng = np.random.default_rng(seed)
    channels = sum(parts)
    return Product(
        random_bf16(rng, rows, columns, **exponents),
        [random_bf16(rng, part, columns, **exponents) for part in parts],
        rng.standard_normal(channels, np.float32) if bias else None,
        rng.standard_normal((rows, channels), np.float32) if residual else None,
    )


@cache
def case(seed, rows, parts, columns, bias, residual):
    """A product and its result: once for all pools."""
    product = random_product(seed, rows, parts, columns, bias, residual)
    return product, reference(product)


# -- tests ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(pool, shape):
    product, expected = case(SHAPES.index(shape), *shape)
    assert_array_equal(run(pool, product).view(np.uint32), expected.view(np.uint32))
    if product.residual is not None:
        assert_array_equal(run(pool, product, in_place=True).view(np.uint32), expected.view(np.uint32))


def test_no_rows(pool):
    assert run(pool, random_product(1, 0, (40,), 64, False, False)).shape == (0, 40)


def test_random_shapes(pool):
    rng = np.random.default_rng(11)
    for seed in range(12):
        parts = tuple(rng.integers(1, 90, rng.integers(1, 4)).tolist())
        shape = (int(rng.integers(1, 80)), parts, int(rng.integers(1, 300)))
        product, expected = case(seed, *shape, bool(rng.integers(2)), bool(rng.integers(2)))
        assert_array_equal(run(pool, product).view(np.uint32), expected.view(np.uint32), err_msg=str(shape))


def test_a_row_does_not_depend_on_the_others(pool):
    product = random_product(3, 70, (50,), 160, False, False)
    together = run(pool, product)
    for rows in (slice(0, 1), slice(5, 7), slice(20, 41), slice(69, 70)):
        assert_array_equal(run(pool, product._replace(x=product.x[rows])).view(np.uint32), together[rows].view(np.uint32))


def test_infinity_and_nan_stay_in_their_row_and_channel(pool):
    product = random_product(4, 20, (40,), 96, False, False)
    expected = reference(product)
    product.x[7, 50] = 0x7FC0
    product.x[9, 3] = 0x7F80
    product.parts[0][21, 5] = 0xFF80
    result = run(pool, product)
    assert np.all(np.isnan(result[7]))
    assert not np.any(np.isfinite(result[9]))
    assert not np.any(np.isfinite(result[:, 21]))
    touched = np.zeros(result.shape, bool)
    touched[[7, 9]] = touched[:, 21] = True
    assert_array_equal(result[~touched], expected[~touched])


def test_denormals_are_zero(pool):
    """Factors whose products fall below the least normal number, some denormal themselves. float64 holds each sum exactly."""
    product = random_product(5, 18, (35,), 128, False, False, low=60, high=68)
    product.x[:, ::5] = 0x0013
    expected = reference(product, np.float64)
    assert np.any(expected == 0)
    assert np.mean(expected != 0) > 0.1
    assert_array_equal(run(pool, product), expected)
