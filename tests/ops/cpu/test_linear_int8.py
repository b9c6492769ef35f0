"""Products with int8 weights of one scale per row, against numpy: equal bits at every level and thread count."""

from collections import namedtuple

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

LINEAR, F32, I8 = 3, 0, 9
OFFSET, SPARE = 16, 8  # channels in front of and behind a result
POOLS = [(level, threads) for level in LEVELS[: LEVELS.index(best_level()) + 1] for threads in (1, 2, 3, 4)]
Rows = namedtuple("Rows", "values scales")  # int8 [rows, K], float32 [rows]
Product = namedtuple("Product", "x parts bias residual")  # Rows of x and of each part; float32 [out], [rows, out] or None
# Rows; channels of each part; columns; bias; residual.
SHAPES = [
    (1, (896,), 896, False, False),
    (1, (1,), 1, True, True),
    (1, (100,), 320, True, True),  # panels side by side, and some left over
    (2, (16,), 64, False, True),
    (3, (33, 16, 7), 40, True, False),
    (4, (40,), 65, True, True),
    (5, (24, 8), 96, False, False),
    (7, (17,), 128, False, True),
    (8, (40,), 200, True, True),
    (13, (48,), 129, True, False),
    (16, (48,), 320, False, True),
    (17, (31,), 352, True, False),
    (31, (17, 1), 72, True, True),
    (32, (64,), 128, False, False),
    (33, (65,), 33, True, True),
    (48, (32, 32), 96, False, True),
    (64, (96,), 1200, True, False),
    (65, (40, 0, 24), 300, False, True),  # a part without rows
    (80, (19, 50), 2500, True, True),
    (2, (700, 500), 1500, True, True),  # several runs of panels
    (200, (150,), 1100, False, True),
    (450, (70,), 2500, True, False),  # x beyond the second-level cache
    (545, (33,), 1000, False, True),  # two blocks of rows
]


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1]}", scope="module")
def pool(request):
    level, threads = request.param
    return Pool(threads, level)


# -- the kernel -------------------------------------------------------------------------------------------------------------


def padded(values, rows, columns):
    whole = np.zeros((-(-len(values) // rows) * rows, -(-values.shape[1] // columns) * columns), values.dtype)
    whole[: len(values), : values.shape[1]] = values
    return whole


def packed(weights):
    """Panels [groups of 64 columns][16 column quads][16 rows][4], behind each its scales."""
    whole = padded(weights.values, 16, 64)
    panels = whole.reshape(-1, 16, whole.shape[1] // 64, 16, 4).transpose(0, 2, 3, 1, 4)
    panels = panels.reshape(len(whole) // 16, 16 * whole.shape[1])
    scales = padded(weights.scales[:, None], 16, 1).reshape(-1, 16)
    data = aligned(whole.size + scales.nbytes)
    data[:] = np.concatenate([panels.view(np.uint8), scales.view(np.uint8)], axis=1).reshape(-1)
    return data


def tiles(x):
    """[blocks of 16 rows][groups of 64][rows of a block][64], then scales and sums; what nobody may use is not zero."""
    rows, columns = x.values.shape
    height = min(rows, 16)
    blocks = -(-rows // 16)
    whole = np.full((blocks * height, -(-columns // 64) * 64), 77, np.int8)
    whole[:rows] = padded(x.values, 1, 64)
    values = whole.reshape(blocks, height, -1, 64).transpose(0, 2, 1, 3)
    behind = np.full((2, blocks * 16), 0x7FC12345, np.uint32)
    behind[0, :rows] = x.scales.view(np.uint32)
    behind[1, :rows] = x.values.sum(axis=1, dtype=np.int32).view(np.uint32)
    data = aligned(whole.size + behind.nbytes)
    data[:] = np.concatenate([np.ascontiguousarray(values).view(np.uint8).reshape(-1), behind.view(np.uint8).reshape(-1)])
    return data


def rows_of(rows, row_bytes):
    """A buffer of such rows, full of what may neither be read nor changed: NaN."""
    row_bytes = -(-row_bytes // 64) * 64
    data = aligned(rows * row_bytes)
    data[:] = 0xFF
    return data, data.reshape(rows, row_bytes)


def run(pool, product, in_place=False):
    """The product as the instruction computes it; in_place: the residual's buffer becomes the result."""
    x, parts, bias, residual = product
    rows = len(x.values)
    channels = sum(len(part.values) for part in parts)
    x_data = tiles(x)
    out_data, out_rows = rows_of(rows, 4 * (OFFSET + channels + SPARE))
    out = out_rows.view(np.float32)[:, OFFSET : OFFSET + channels]
    more_data, more_rows = (out_data, out_rows) if in_place else rows_of(rows, 4 * (OFFSET + channels))
    if residual is not None:
        more_rows.view(np.float32)[:, OFFSET : OFFSET + channels] = residual
    buffers = [(address(x_data), 64), *((address(data), len(data) // rows) for data in (more_data, out_data))]
    buffers = np.array(buffers, BUFFER)
    data = [packed(part) for part in parts]
    matrices = [(address(d), I8, *part.values.shape, 0) for d, part in zip(data, parts, strict=True)]
    if bias is not None:
        matrices.append((address(bias), F32, 1, channels, 0))
    instruction = np.zeros(1, INSTRUCTION)
    for name in ("in_bf16", "in_q8", "out_bf16", "out_q8", "out_i8"):
        instruction[name] = -1
    instruction["op"], instruction["in_i8"] = LINEAR, 0
    instruction["inputs"] = [(1 if residual is not None else -1, OFFSET, channels), (-1, 0, 0)]
    instruction["out"] = (1 if in_place else 2, OFFSET, channels)
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


def reference(product):
    weights = np.concatenate([part.values for part in product.parts]).astype(np.float64)
    scales = np.concatenate([part.scales for part in product.parts])
    sums = (product.x.values.astype(np.float64) @ weights.T).astype(np.float32)  # whole numbers: exact, then rounded once
    result = sums * (scales[None, :] * product.x.scales[:, None])
    result = result if product.bias is None else result + product.bias
    return result if product.residual is None else result + product.residual


def random_rows(rng, rows, columns):
    return Rows(rng.integers(-127, 128, (rows, columns)).astype(np.int8), rng.random(rows, np.float32))


def random_product(seed, rows, parts, columns, bias=False, residual=False):
    rng = np.random.default_rng(seed)
    channels = sum(parts)
    return Product(
        random_rows(rng, rows, columns),
        [random_rows(rng, part, columns) for part in parts],
        rng.standard_normal(channels, np.float32) if bias else None,
        rng.standard_normal((rows, channels), np.float32) if residual else None,
    )


def take(product, rows):
    return product._replace(x=Rows(product.x.values[rows], product.x.scales[rows]))


# -- tests ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(pool, shape):
    product = random_product(SHAPES.index(shape), *shape)
    expected = reference(product)
    assert_array_equal(run(pool, product), expected)
    if product.residual is not None:
        assert_array_equal(run(pool, product, in_place=True), expected)


def test_every_number_of_rows(pool):
    product = random_product(1, 80, (50,), 192)
    together = reference(product)
    for rows in range(1, 81):
        assert_array_equal(run(pool, take(product, slice(80 - rows, 80))), together[80 - rows :], err_msg=str(rows))


def test_extremes_are_exact(pool):
    """All integers at 127 or -127: pairs of products come near the end of 16 bits."""
    sign = np.where(np.arange(256) % 2, 1, -1)
    values = np.stack([np.full(256, 127), np.full(256, -127), 127 * sign, np.zeros(256, int)]).astype(np.int8)
    for rows in (1, 4, 36):
        x = Rows(np.resize(values, (rows, 256)), np.ones(rows, np.float32))
        product = Product(x, [Rows(np.resize(values, (20, 256)), np.ones(20, np.float32))], None, None)
        assert_array_equal(run(pool, product), reference(product))


def test_long_rows_are_exact(pool):
    """The largest sums, of so many columns that they need 31 bits."""
    values = np.full((1, 130_000), 127, np.int8)
    one = Rows(values, np.ones(1, np.float32))
    for sign in (1, -1):
        product = Product(one, [Rows(values * np.int8(sign), np.ones(1, np.float32))], None, None)
        assert run(pool, product)[0, 0] == np.float32(sign * 127 * 127 * 130_000)


@pytest.mark.parametrize("rows", [3, 40])
def test_a_row_that_is_not_finite_spoils_itself_only(pool, rows):
    product = random_product(4, rows, (40,), 96)
    expected = reference(product)
    product.x.scales[2], product.x.values[2] = np.nan, 0
    product.parts[0].scales[21], product.parts[0].values[21] = np.nan, 0
    expected[2] = expected[:, 21] = np.nan
    assert_array_equal(run(pool, product), expected)
