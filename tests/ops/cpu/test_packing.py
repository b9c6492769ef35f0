"""Packed weights: the same bits as the file's, or the nearest that the packed format can say."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.support.int8_rows import quantised, rotated
from tiercel.ops.cpu.library import Pool, address
from tiercel.ops.cpu.packing import FORMATS as NUMBERS
from tiercel.ops.cpu.packing import Matrix, unpack
from tiercel.ops.dequantize import dequantize
from tiercel.types import Weight
from tiercel.types.weight import FORMATS

QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K")
ALONE = ("F32", "F16", "BF16")


@pytest.fixture(scope="module", params=(1, 3))
def pool(request):
    return Pool(request.param)


def packed_bytes(pool, target, rows, columns):
    return pool.library.tiercel_packed_bytes(NUMBERS[target], rows, columns)


def pack(pool, weight, target):
    """A packed matrix; every byte of it must be written. None where the library refuses."""
    size = packed_bytes(pool, target, *weight.shape)
    if size < 0:
        return None
    data = [np.full(size, fill, np.uint8) for fill in (0, 255)]
    for out in data:
        source = np.ascontiguousarray(weight.data)
        arguments = (NUMBERS[weight.format.name], address(source), NUMBERS[target], *weight.shape, address(out))
        if pool.library.tiercel_pack(pool.handle, *arguments):
            return None
    assert_array_equal(*data)
    return Matrix(data[0], NUMBERS[target], *weight.shape)


def random_bytes(name, rows, columns, seed=0):
    """Any bits at all, scales that are NaN or infinite included."""
    size = rows * FORMATS[name].row_bytes(columns)
    data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Weight(data, FORMATS[name], (rows, columns))


def weight_of(values, name="F32"):
    """float32 [rows, columns] as F32, F16 or BF16."""
    if name == "BF16":
        data = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        data = values.astype({"F32": np.float32, "F16": np.float16}[name])
    return Weight(data.view(np.uint8).reshape(-1), FORMATS[name], values.shape)


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def as_bf16(x):
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def relative_error(values, reference):
    return np.sqrt(np.mean((values - reference) ** 2) / np.mean(reference**2))


# -- the same format ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (16, 512), (37, 768)])
def test_blocks_of_a_file_keep_their_values(pool, name, rows, columns):
    weight = random_bytes(name, rows, columns, seed=rows)
    with np.errstate(invalid="ignore"):
        assert_array_equal(unpack(pack(pool, weight, name), pool), dequantize(weight))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_an_odd_number_of_blocks(pool, name):
    weight = random_bytes(name, 17, 96)
    assert_array_equal(unpack(pack(pool, weight, name), pool), dequantize(weight))


@pytest.mark.parametrize("columns", [1, 31, 32, 100])
def test_bf16_keeps_every_bit(pool, columns):
    weight = random_bytes("BF16", 21, columns)
    assert_array_equal(unpack(pack(pool, weight, "BF16"), pool).view(np.uint32), dequantize(weight).view(np.uint32))


# -- from one format to another -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["F32", "F16", *QUANTISED])
def test_bf16_is_the_nearest(pool, source):
    values = normal(19, 256)
    weight = weight_of(values, source) if source in ALONE else _requantised(pool, values, source)
    assert_array_equal(unpack(pack(pool, weight, "BF16"), pool), as_bf16(dequantize(weight)))


def test_bf16_of_special_values(pool):
    values = np.array([[np.nan, np.inf, -np.inf, 3.4e38, 1e-45, -0.0, 1.00390625, 1.01171875]], np.float32)
    with np.errstate(invalid="ignore"):
        got = unpack(pack(pool, weight_of(values), "BF16"), pool)
    assert_array_equal(got, [[np.nan, np.inf, -np.inf, np.inf, 0.0, -0.0, 1.0, 1.015625]])


@pytest.mark.parametrize("columns", [1, 33, 320])
def test_q8_0_rounds_to_its_scale(pool, columns):
    values = normal(18, columns) * np.float32(0.03)
    padded = np.zeros((18, -(-columns // 32) * 32), np.float32)
    padded[:, :columns] = values
    runs = padded.reshape(18, -1, 32)
    scales = (np.abs(runs).max(axis=2, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    expected = (np.clip(np.round(runs * (np.float32(1) / scales)), -128, 127) * scales).reshape(18, -1)[:, :columns]
    assert_array_equal(unpack(pack(pool, weight_of(values), "Q8_0"), pool), expected)


@pytest.mark.parametrize(("target", "bound"), [("Q8_0", 0.0056), ("Q4_0", 0.083), ("Q4_1", 0.0715)])
@pytest.mark.parametrize("source", [*ALONE, "Q8_0", "Q6_K"])
def test_quantised_values_are_close(pool, source, target, bound):
    """On normal values, ggml's own roundings (spanning all values) are off by 0.086 in Q4_0 and by 0.078 in Q4_1."""
    values = normal(48, 512, seed=1)
    weight = weight_of(values, source) if source in ALONE else _requantised(pool, values, source)
    assert relative_error(unpack(pack(pool, weight, target), pool), dequantize(weight)) < bound


@pytest.mark.parametrize("offset", [0.0, 10.0, -300.0])
def test_q4_1_far_from_zero(pool, offset):
    values = np.float32(offset) + normal(16, 128)
    got = unpack(pack(pool, weight_of(values), "Q4_1"), pool)
    assert np.abs(got - values).max() < 0.25 + abs(offset) / 1024  # the minimum is a float16


@pytest.mark.parametrize("target", ["Q8_0", "Q4_0", "Q4_1"])
def test_runs_without_a_spread(pool, target):
    values = np.repeat(np.array([[0.0, 1.0, -2.0, 0.5]], np.float32), 32, axis=1)
    got = unpack(pack(pool, weight_of(values), target), pool)
    np.testing.assert_allclose(got, values, rtol=2e-3)
    assert_array_equal(got[values == 0], 0)


@pytest.mark.parametrize("target", ["Q8_0", "Q4_0", "Q4_1"])
def test_values_that_do_not_fit_do_no_harm(pool, target):
    """Values beyond a float16 scale are limited; a NaN or an infinity costs its own run of 32 values only."""
    values = normal(3, 128)
    values[0, :32], values[1, 40], values[2, 70] = 1e30, np.nan, np.inf
    got = unpack(pack(pool, weight_of(values), target), pool)
    spoilt = np.zeros(values.shape, bool)
    spoilt[0, :32] = spoilt[1, 32:64] = spoilt[2, 64:96] = True
    assert np.abs(got - values)[~spoilt].max() < 0.5


def test_every_value_of_q4_1_survives(pool):
    """What is on a grid of 16 steps already is kept, up to the rounding of scale and minimum."""
    steps = np.tile(np.arange(16, dtype=np.float32), (16, 8))
    values = steps * np.float32(0.25) - np.float32(1.5)
    assert_array_equal(unpack(pack(pool, weight_of(values), "Q4_1"), pool), values)


# -- int8 with one scale per row -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [*ALONE, *QUANTISED])
def test_int8_rows_of_every_format(pool, source):
    values = normal(37, 768, seed=2)
    weight = weight_of(values, source) if source in ALONE else _requantised(pool, values, source)
    check_int8_rows(pool, weight)


@pytest.mark.parametrize("columns", [1, 15, 16, 33, 64, 100, 576, 1200])
def test_int8_rows_of_any_length(pool, columns):
    weight = weight_of(normal(18, columns))
    check_int8_rows(pool, weight)
    assert relative_error(unpack(pack(pool, weight, "I8"), pool), dequantize(weight)) < 0.01


def test_int8_rows_of_special_values(pool):
    """Rows of zeros are zeros; a value that is not finite costs its own row."""
    values = normal(6, 64)
    values[0], values[1, 3], values[2, 5], values[3] = 0, np.nan, np.inf, 1e-37
    with np.errstate(all="ignore"):
        check_int8_rows(pool, weight_of(values))


def test_outliers_are_spread(pool):
    """One value a hundred times the others takes the scale to itself, but for the rotation."""
    values = normal(16, 512)
    values[:, 100] *= 100
    got = unpack(pack(pool, weight_of(values), "I8"), pool)
    rest = np.arange(512) != 100
    assert relative_error(got[:, rest], values[:, rest]) < 0.08


def check_int8_rows(pool, weight):
    """Bytes, and the values that they stand for."""
    packed = pack(pool, weight, "I8")
    rows, columns = weight.shape
    values, scales = quantised(dequantize(weight))
    whole = np.zeros((-(-rows // 16) * 16, -(-columns // 64) * 64), np.int8)
    whole[:rows, :columns] = values
    behind = np.zeros(len(whole), np.float32)
    behind[:rows] = scales
    panels = packed.data.reshape(len(whole) // 16, -1)
    assert_array_equal(panels[:, -64:].copy().view(np.float32).reshape(-1), behind)
    quads = panels[:, :-64].reshape(len(panels), -1, 16, 4).transpose(0, 2, 1, 3).reshape(whole.shape)
    assert_array_equal(quads.view(np.int8), whole)
    assert_array_equal(unpack(packed, pool), rotated(values * scales[:, None]))


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_sizes(pool):
    for target in ("BF16", "I8", "Q8_0", "Q4_0", "Q4_1", "Q5_0"):
        assert packed_bytes(pool, target, 17, 100) % 64 == 0
        assert packed_bytes(pool, target, 17, 100) == packed_bytes(pool, target, 32, 128)
    for target in ("Q4_K", "Q6_K"):
        assert packed_bytes(pool, target, 17, 512) % 64 == 0
        assert packed_bytes(pool, target, 16, 128) == -1
    assert packed_bytes(pool, "F16", 16, 128) == -1


@pytest.mark.parametrize(("source", "target"), [("F32", "Q5_0"), ("Q8_0", "Q4_K"), ("Q4_1", "Q6_K"), ("F32", "F32")])
def test_ways_that_do_not_exist(pool, source, target):
    assert pack(pool, random_bytes(source, 4, 256), target) is None


def test_thread_counts_agree():
    weight = weight_of(normal(100, 96))
    for target in ("BF16", "I8", "Q8_0", "Q4_0", "Q4_1"):
        one, four = (pack(Pool(threads, "avx2"), weight, target).data for threads in (1, 4))
        assert_array_equal(one, four)


def _requantised(pool, values, name):
    """A weight of a quantised format with values like these, its blocks made by a plain rounding."""
    rows, columns = values.shape
    raw = random_bytes(name, rows, columns).data.reshape(-1, FORMATS[name].block_bytes).copy()
    scale = {"Q8_0": 0.02, "Q4_0": 0.4, "Q4_1": 0.25, "Q5_0": 0.15, "Q4_K": 0.01, "Q6_K": 0.001}[name]
    at = 208 if name == "Q6_K" else 0
    raw[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    if name in ("Q4_1", "Q4_K"):
        raw[:, 2:4] = np.array([0.05], np.float16).view(np.uint8)
    return Weight(raw.reshape(-1), FORMATS[name], (rows, columns))
