"""Products of 8-bit activations with quantised weights, against numpy in the written order of arithmetic: equal bits."""

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
from tiercel.ops.cpu.packing import FORMATS as NUMBERS
from tiercel.ops.dequantize import dequantize
from tiercel.types import Weight
from tiercel.types.weight import FORMATS

LINEAR = 3
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K")
SCALED = {"Q6_K": 16}  # columns of a scale; 32 in all others
POOLS = [(level, threads) for level in LEVELS[: LEVELS.index(best_level()) + 1] for threads in (1, 2, 4)]


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1]}", scope="module")
def pool(request):
    level, threads = request.param
    return Pool(threads, level)


# -- weights and activations --------------------------------------------------------------------------------------------------


def half(value):
    return np.array([value], np.float16).view(np.uint8)


def random_weight(name, rows, columns, seed=0):
    """Random quants; scales of either sign, some of them zero."""
    rng = np.random.default_rng(seed)
    form = FORMATS[name]
    blocks = rng.integers(0, 256, (rows * columns // form.block_values, form.block_bytes), dtype=np.uint8)
    scales = rng.standard_normal((len(blocks), 2)) * 0.01
    scales[rng.random(len(blocks)) < 0.1] = 0
    scales = scales.astype(np.float16).view(np.uint8)
    at = 208 if name == "Q6_K" else 0
    blocks[:, at : at + 2] = scales[:, :2]
    if name in ("Q4_1", "Q4_K"):
        blocks[:, 2:4] = scales[:, 2:]
    return Weight(blocks.reshape(-1), form, (rows, columns))


def decoded(weight, **fields):
    """The weight's values with some of its blocks' bytes replaced: {name of a field: bytes}."""
    places = {
        "Q8_0": {"d": (0, 2), "q": (2, 34)},
        "Q4_0": {"d": (0, 2), "q": (2, 18)},
        "Q4_1": {"d": (0, 2), "m": (2, 4), "q": (4, 20)},
        "Q5_0": {"d": (0, 2), "q": (2, 22)},
        "Q4_K": {"d": (0, 2), "m": (2, 4), "s": (4, 16), "q": (16, 144)},
        "Q6_K": {"d": (208, 210), "s": (192, 208), "q": (0, 192)},
    }[weight.format.name]
    blocks = weight.data.reshape(-1, weight.format.block_bytes).copy()
    for field, value in fields.items():
        if field in places:
            start, stop = places[field]
            blocks[:, start:stop] = value
    return dequantize(Weight(blocks.reshape(-1), weight.format, weight.shape))


def parts(weight):
    """quants - zero point [rows, columns] int64, scale_w [rows, scales], min_w [rows, columns / 32] or None, both float32."""
    name = weight.format.name
    ones = np.repeat(np.array([1, 0, 1], np.uint8), 4) if name == "Q4_K" else np.uint8(1)
    quants = decoded(weight, d=half(1), m=half(0), s=ones).astype(np.int64)
    one = {
        "Q8_0": np.uint8(1),
        "Q4_0": np.uint8(0x99),
        "Q4_1": np.uint8(0x11),
        "Q5_0": np.repeat(np.array([255, 0x11], np.uint8), (4, 16)),
        "Q4_K": np.uint8(0x11),
        "Q6_K": np.repeat(np.array([0x11, 0xAA], np.uint8), (128, 64)),
    }[name]
    scales = decoded(weight, q=one, m=half(0))[:, :: SCALED.get(name, 32)]
    minima = decoded(weight, q=np.uint8(0))[:, ::32] if name in ("Q4_1", "Q4_K") else None
    return quants, scales, minima


class Activations:
    """Rows of the q8 form. values: int8 [rows, columns], scales: float32 [rows, columns / 32]."""

    def __init__(self, values, scales):
        self.values, self.scales = values, scales
        rows = len(values)
        self.sums = values.reshape(rows, -1, 16).sum(axis=2, dtype=np.int16)
        self.scaled_sums = scales * self.sums.reshape(rows, -1, 2).sum(axis=2).astype(np.float32)
        fields = (values, scales, self.scaled_sums, self.sums)
        row = np.concatenate([np.ascontiguousarray(field).view(np.uint8).reshape(rows, -1) for field in fields], axis=1)
        self.row_bytes = -(-row.shape[1] // 64) * 64
        self.bytes = aligned(rows * self.row_bytes)
        self.bytes[:] = 0xA5  # read by nobody
        self.bytes.reshape(rows, -1)[:, : row.shape[1]] = row

    def take(self, rows):
        return Activations(self.values[rows], self.scales[rows])


def random_activations(rows, columns, seed=0):
    rng = np.random.default_rng(seed + 1)
    scales = np.abs(rng.standard_normal((rows, columns // 32))).astype(np.float32)
    scales[rng.random(scales.shape) < 0.05] = 0
    return Activations(rng.integers(-127, 128, (rows, columns)).astype(np.int8), scales)


# -- the product, twice -------------------------------------------------------------------------------------------------------


def fma(a, b, c):
    """One rounding: the product of two float32 is exact in 80 bits."""
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c).astype(np.float32)


def expected(x, weight):
    """float32 [rows of x, rows of weight]."""
    quants, scales, minima = parts(weight)
    size = SCALED.get(weight.format.name, 32)
    acc = np.zeros((len(x.values), len(quants)), np.float32)
    for column in range(0, quants.shape[1], size):
        run = slice(column, column + size)
        total = (x.values[:, run].astype(np.int64) @ quants[:, run].T).astype(np.float32)
        acc = fma(total, scales[:, column // size] * x.scales[:, column // 32, None], acc)
        if minima is not None:
            acc = fma(x.scaled_sums[:, column // 32, None], minima[:, column // 32], acc)
    return acc


def pack(pool, weight):
    number = NUMBERS[weight.format.name]
    data = aligned(pool.library.tiercel_packed_bytes(number, *weight.shape))
    source = np.ascontiguousarray(weight.data)
    assert pool.library.tiercel_pack(pool.handle, number, address(source), number, *weight.shape, address(data)) == 0
    return data


def product(pool, x, weights, bias=None, residual=None):
    """float32 [rows of x, rows of all weights], by one instruction."""
    rows, channels = len(x.values), sum(weight.shape[0] for weight in weights)
    stride = -(-channels // 16) * 16 + 16
    out = aligned(rows * stride * 4).view(np.float32).reshape(rows, stride)
    out[:] = -7
    if residual is not None:
        out[:, :channels] = residual
    packed = [pack(pool, weight) for weight in weights]
    entries = [(address(data), NUMBERS[w.format.name], *w.shape, 0) for data, w in zip(packed, weights, strict=True)]
    if bias is not None:
        entries.append((address(bias), 0, 1, channels, 0))
    matrices = np.array(entries, MATRIX)
    constants = np.array([(0, len(weights), 0, 0), (len(weights), 1, 0, 0)], CONSTANT)
    buffers = np.array([(address(x.bytes), x.row_bytes), (address(out), stride * 4)], BUFFER)
    instruction = np.zeros(1, INSTRUCTION)
    instruction["op"], instruction["in_q8"] = LINEAR, 0
    for name in ("in_bf16", "in_i8", "out_bf16", "out_q8", "out_i8"):
        instruction[name] = -1
    instruction["inputs"] = [(-1 if residual is None else 1, 0, channels), (-1, 0, 0)]
    instruction["out"], instruction["constant"] = (1, 0, channels), (0, -1 if bias is None else 1)
    program = ProgramStruct(*(address(a) for a in (instruction, constants, matrices, buffers)), 1, 2, len(matrices), 2)
    step = StepStruct(rows, rows, 0, 0, None, None, None, None, None)
    assert pool.library.tiercel_run(pool.handle, program, step, 0, 1) == 0
    assert (out[:, channels:] == -7).all()
    return out[:, :channels].copy()


# -- tests --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize(
    ("rows", "channels", "columns"), [(1, 100, 512), (3, 16, 256), (4, 33, 768), (9, 48, 256), (22, 17, 512)]
)
def test_products_have_the_bits_of_the_written_order(pool, name, rows, channels, columns):
    weight, x = random_weight(name, channels, columns, seed=rows), random_activations(rows, columns)
    assert_array_equal(product(pool, x, [weight]), expected(x, weight))


@pytest.mark.parametrize("name", QUANTISED[:4])
@pytest.mark.parametrize("columns", [32, 96, 160])
@pytest.mark.parametrize("rows", [2, 7])
def test_an_odd_number_of_groups(pool, name, rows, columns):
    weight, x = random_weight(name, 20, columns), random_activations(rows, columns)
    assert_array_equal(product(pool, x, [weight]), expected(x, weight))


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("quants", [0x00, 0xFF, 0x80, 0x7F])
def test_extremes_are_exact(pool, name, quants):
    """The largest sums there can be: all quants at one end, all integers at +127 or -127."""
    weight = random_weight(name, 16, 256)
    blocks = weight.data.reshape(-1, weight.format.block_bytes)
    start, stop = {"Q4_K": (16, 144), "Q6_K": (0, 192), "Q4_1": (4, 20)}.get(name, (2, weight.format.block_bytes))
    blocks[:, start:stop] = quants
    values = np.repeat(np.array([[127], [-127], [0]], np.int8), 256, axis=1)
    values = np.concatenate([values, np.where(np.arange(256) % 2, 127, -127).astype(np.int8)[None]])
    x = Activations(values, np.ones((4, 8), np.float32))
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3, 0, 1]):
        assert_array_equal(product(pool, x.take(rows), [weight]), expected(x.take(rows), weight))


@pytest.mark.parametrize("name", QUANTISED)
def test_a_row_depends_on_itself_only(pool, name):
    weight, x = random_weight(name, 50, 256), random_activations(70, 256)
    together = product(pool, x, [weight])
    for count in (1, 2, 3, 4, 5, 8, 15):
        assert_array_equal(product(pool, x.take(np.arange(70)[-count:]), [weight]), together[-count:])


@pytest.mark.parametrize("name", QUANTISED)
def test_rows_beyond_the_cache(pool, name):
    """More than 128 KiB of rows take several panels at a time; 300 channels are more panels than one such set."""
    weight, x = random_weight(name, 300, 1024), random_activations(1045, 1024)
    some = np.array([0, 1, 15, 16, 500, 1039, 1040, 1044])
    assert_array_equal(product(pool, x, [weight])[some], expected(x.take(some), weight))


@pytest.mark.parametrize("name", QUANTISED)
def test_a_row_that_is_not_finite_spoils_itself_only(pool, name):
    weight, x = random_weight(name, 18, 256), random_activations(6, 256)
    clean = product(pool, x, [weight])
    x.scales[4, 3] = np.nan
    spoilt = product(pool, Activations(x.values, x.scales), [weight])
    assert np.isnan(spoilt[4]).all()
    assert_array_equal(np.delete(spoilt, 4, axis=0), np.delete(clean, 4, axis=0))


@pytest.mark.parametrize("rows", [1, 6])
def test_joined_formats_with_bias_and_residual(pool, rows):
    weights = [random_weight(name, channels, 256) for name, channels in zip(QUANTISED, (40, 16, 7, 33, 16, 1), strict=True)]
    x = random_activations(rows, 256)
    rng = np.random.default_rng(3)
    channels = sum(weight.shape[0] for weight in weights)
    bias, residual = rng.standard_normal(channels).astype(np.float32), rng.standard_normal((rows, channels)).astype(np.float32)
    sums = np.concatenate([expected(x, weight) for weight in weights], axis=1)
    assert_array_equal(product(pool, x, weights, bias, residual), (sums + bias) + residual)


def test_products_are_close_to_those_of_float32(pool):
    weight, x = random_weight("Q6_K", 64, 512), random_activations(5, 512)
    reference = (x.values * np.repeat(x.scales, 32, axis=1)).astype(np.float64) @ dequantize(weight).astype(np.float64).T
    np.testing.assert_allclose(product(pool, x, [weight]), reference, rtol=0, atol=1e-5 * np.abs(reference).max())
