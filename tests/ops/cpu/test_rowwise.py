"""Row-wise kernels against numpy in the same order of arithmetic: equal bits at every instruction set and thread count."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.support.int8_rows import quantised, rotated
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

EMBEDDING, ADD, RMS_NORM, ROPE, SILU_MUL, SELECT_ROWS, CONVERT = 0, 1, 2, 4, 5, 8, 9
BF16, I8 = 1, 9
LANES = 16
POOLS = [(level, threads) for level in LEVELS[: LEVELS.index(best_level()) + 1] for threads in (1, 2, 3)]
EXTREMES = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-38, 0.0, -0.0, 200.0, -200.0], np.float32)


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1]}", scope="module")
def pool(request):
    level, threads = request.param
    return Pool(threads, level)


# -- one instruction --------------------------------------------------------------------------------------------------------


class Buffer:
    """Rows of 64-byte multiples, filled with what no kernel may read or leave behind."""

    def __init__(self, rows, row_bytes):
        self.row_bytes = -(-row_bytes // 64) * 64
        self.bytes = aligned(max(1, rows) * self.row_bytes)
        self.bytes[:] = 0xA5
        self.rows = self.bytes.reshape(max(1, rows), self.row_bytes)[:rows]

    def floats(self):
        return self.rows.view(np.float32)


def run(pool, op, inputs, channels, *, rows, offset=0, in_place=False, **settings):
    """The result of one instruction: float32, bf16 (uint16), q8 and i8 (bytes). Inputs and result begin at channel `offset`."""
    buffers = []
    for x in inputs:
        buffers.append(Buffer(len(x), 4 * (offset + x.shape[1])))
        buffers[-1].floats()[:, offset : offset + x.shape[1]] = x
    padded = -(-channels // 32) * 32
    out = buffers[0] if in_place else Buffer(rows, 4 * (offset + channels))
    guard = out.floats().copy()
    bf16 = Buffer(rows if rows < 16 else -(-rows // 16) * 16, 2 * padded)
    q8 = Buffer(rows, padded + padded // 32 * 4 + padded // 16 * 4)
    i8 = Buffer(-(-rows // 16) * 16, -(-channels // 64) * 64 + 128)
    table = np.array([(address(b.bytes), b.row_bytes) for b in (*buffers, out, bf16, q8, i8)], BUFFER)
    instruction = np.zeros(1, INSTRUCTION)
    instruction["op"], instruction["real"] = op, settings.get("real", 0)
    instruction["inputs"] = [(i, offset, inputs[i].shape[1]) if i < len(inputs) else (-1, 0, 0) for i in range(2)]
    n = len(buffers)
    number = 0 if in_place else n
    instruction["out"] = (number, offset, channels)
    instruction["in_bf16"] = instruction["in_q8"] = instruction["in_i8"] = -1
    rotates = op == ROPE  # the one that gives float32 only
    for place, name in enumerate(("out_bf16", "out_q8", "out_i8"), n + 1):
        instruction[name] = -1 if rotates or name in settings.get("without", ()) else place
    matrices = [settings["matrix"]] if "matrix" in settings else settings.get("vectors", [])
    instruction["constant"] = (0 if matrices else -1, -1)
    entries = np.array([(address(data), kind, *shape, 0) for data, kind, shape in matrices], MATRIX)
    constants = np.array([(0, len(matrices), settings.get("interleaved", 0), 0)], CONSTANT)
    program = ProgramStruct(
        *(address(array) for array in (instruction, constants, entries, table)), 1, 1, len(matrices), len(table)
    )
    ids = np.array(settings.get("ids", range(rows)), np.int32)
    step = StepStruct(rows, rows, 0, 0, address(ids), address(ids), address(ids), None, None)
    assert pool.library.tiercel_run(pool.handle, program, step, 0, 1) == 0
    result = out.floats()[:, offset : offset + channels].copy()
    out.floats()[:, offset : offset + channels] = guard[:, offset : offset + channels]
    assert_array_equal(out.rows.view(np.uint32), guard.view(np.uint32))  # no other channel was written
    return result, from_tiles(bf16.bytes[: len(bf16.rows) * 2 * padded], rows, padded), q8.rows, i8.bytes


def from_tiles(tiles, rows, columns):
    """bf16 [rows, columns] (uint16) from tiles [blocks of 16 rows][groups of 32 channels][rows of a block][32]."""
    block = max(1, min(rows, 16))
    blocks = tiles.view(np.uint16).reshape(-1, columns // 32, block, 32)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, columns)[:rows]


def vector(values):
    array = np.ascontiguousarray(values, np.float32)
    shape = (1, len(array)) if array.ndim == 1 else array.shape
    return array, 0, shape


# -- the same in numpy ------------------------------------------------------------------------------------------------------


def flushed(x):
    """Denormals read as zeros in the kernels."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def as_bf16(x):
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def dequantised(q8, channels):
    """int8 * scale, and the sums that stand behind, from rows of the q8 form."""
    columns = -(-channels // 32) * 32
    values = q8[:, :columns].view(np.int8).astype(np.float32)
    scales = q8[:, columns:][:, : columns // 8].copy().view(np.float32)
    sums = q8[:, columns + columns // 4 :][:, : columns // 8].copy().view(np.int16)
    return (values.reshape(len(q8), -1, 32) * scales[:, :, None]).reshape(len(q8), columns), scales, sums, values


def check_i8(result, i8):
    """Tiles [blocks of 16 rows][groups of 64][rows of a block][64], then scales and sums, of the float32 result; no more."""
    rows, channels = result.shape
    groups, height, blocks = -(-channels // 64), min(rows, 16), -(-rows // 16)
    expected, scales = quantised(result)
    values = i8.view(np.int8)[: blocks * groups * height * 64].reshape(blocks, groups, height, 64).transpose(0, 2, 1, 3)
    values = values.reshape(-1, groups * 64)
    assert_array_equal(values[:rows, :channels], expected)
    assert not values[:rows, channels:].any()
    assert (values[rows:].view(np.uint8) == 0xA5).all()
    behind = i8[values.size :]
    assert_array_equal(behind[: rows * 4].view(np.float32), scales)
    assert_array_equal(behind[blocks * 64 :][: rows * 4].view(np.int32), expected.sum(axis=1, dtype=np.int32))
    assert (behind[rows * 4 : blocks * 64] == 0xA5).all()
    assert (behind[blocks * 64 + rows * 4 :] == 0xA5).all()


def check_forms(result, bf16, q8, i8):
    """The other forms are those of the float32 result."""
    check_i8(result, i8)
    rows, channels = result.shape
    padded = np.zeros((rows, bf16.shape[1]), np.float32)
    padded[:, :channels] = result
    assert_array_equal(bf16, as_bf16(padded))
    back, scales, sums, values = dequantised(q8, channels)
    assert_array_equal(sums, values.reshape(rows, -1, LANES).sum(axis=2))
    groups = padded.reshape(rows, -1, 32)
    finite = np.isfinite(groups).all(axis=2)
    assert np.isnan(scales[~finite]).all()
    error = np.abs(back.reshape(groups.shape) - groups)[finite]
    assert (error <= np.abs(groups[finite]).max(axis=1, keepdims=True) * 0.00396 + 1e-37).all()  # half of 1 / 127, and rounding


def fma(a, b, c):
    """One rounding: a product of two float32 is exact in 80 bits."""
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c).astype(np.float32)


EXP2 = [float.fromhex(f"0x1.{x}") for x in ("416b6p-13", "5f082ep-10", "3b2dep-7", "c6af7cp-5", "ebfbdcp-3", "62e43p-1", "0p0")]


def exp2(x):
    x = np.where(np.isnan(x), x, np.clip(x, np.float32(-127), np.float32(128)))
    whole = np.rint(x)
    p = np.full_like(x, EXP2[0])
    for coefficient in EXP2[1:]:
        p = fma(p, x - whole, np.float32(coefficient))
    return flushed(p * np.where(whole == -127, np.float32(0), np.ldexp(np.float32(1), whole.astype(np.int32))))


def silu_mul(gate, up):
    gate, up = flushed(gate), flushed(up)
    return flushed(flushed(gate / (1 + exp2(gate * np.float32(-1.44269504)))) * up)


def lane_sum(x):
    """Over the last axis: lane by lane, then lanes i and i + 8, + 4, + 2, + 1."""
    lanes = np.zeros((*x.shape[:-1], -(-x.shape[-1] // LANES) * LANES), np.float32)
    lanes[..., : x.shape[-1]] = x
    lanes = lanes.reshape(*x.shape[:-1], -1, LANES)
    total = np.zeros((*x.shape[:-1], LANES), np.float32)
    for part in range(lanes.shape[-2]):
        total = total + lanes[..., part, :]
    for width in (8, 4, 2, 1):
        total = total[..., :width] + total[..., width : 2 * width]
    return total


def rms_norm(x, weight, eps):
    runs = x.reshape(len(x), -1, len(weight))
    mean = lane_sum(flushed(runs * runs)) / np.float32(len(weight))
    inverse = 1 / np.sqrt(mean + np.float32(eps))
    return (runs * inverse * weight).reshape(x.shape)


def rotate(x, cos, sin, interleaved):
    half = cos.shape[1]
    heads = x.reshape(len(x), -1, half, 2) if interleaved else x.reshape(len(x), -1, 2, half).swapaxes(2, 3)
    first, second, cos, sin = heads[..., 0], heads[..., 1], cos[:, None], sin[:, None]
    turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return (turned if interleaved else turned.swapaxes(2, 3)).reshape(x.shape)


# -- tests ------------------------------------------------------------------------------------------------------------------

SHAPES = [(1, 896), (1, 100), (2, 64), (3, 5), (7, 33), (5, 576)]


def values(seed, rows, channels, *, extremes=False):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, channels)) * 4).astype(np.float32)
    if extremes:
        where = rng.random(x.shape) < 0.02
        x[where] = rng.choice(EXTREMES, where.sum())
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("in_place", [False, True])
@np.errstate(all="ignore")
def test_silu_mul(pool, shape, in_place):
    gate, up = values(1, *shape, extremes=True), values(2, *shape)
    result, *forms = run(pool, SILU_MUL, [gate, up], shape[1], rows=shape[0], in_place=in_place)
    assert_array_equal(result, silu_mul(gate, up))
    check_forms(result, *forms)


@np.errstate(all="ignore")
def test_silu_mul_is_close_to_the_exact_value(pool):
    gate = np.linspace(-90, 90, 1 << 16, dtype=np.float32).reshape(64, -1)
    result, *_ = run(pool, SILU_MUL, [gate, np.ones_like(gate)], gate.shape[1], rows=len(gate))
    exact = gate / (1 + np.exp(-gate.astype(np.float64)))
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-36)
    near = np.abs(gate) < 8
    np.testing.assert_allclose(result[near], exact[near], rtol=1.2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0, 3])
@np.errstate(all="ignore")
def test_add(pool, shape, offset):
    a, b = values(1, *shape, extremes=True), values(2, *shape, extremes=True)
    result, *forms = run(pool, ADD, [a, b], shape[1], rows=shape[0], offset=offset)
    assert_array_equal(result, flushed(flushed(a) + flushed(b)))
    check_forms(result, *forms)


@pytest.mark.parametrize(("rows", "heads", "size"), [(1, 1, 896), (4, 1, 100), (3, 5, 64), (2, 3, 24), (5, 2, 7)])
@pytest.mark.parametrize("in_place", [False, True])
def test_rms_norm(pool, rows, heads, size, in_place):
    x, weight = values(1, rows, heads * size), values(2, 1, size)[0]
    x[-1] *= 1e-6  # eps counts
    result, *forms = run(
        pool, RMS_NORM, [x], x.shape[1], rows=rows, offset=5, real=1e-5, vectors=[vector(weight)], in_place=in_place
    )
    assert_array_equal(result, rms_norm(x, weight, 1e-5))
    check_forms(result, *forms)
    runs = x.astype(np.float64).reshape(rows, heads, size)
    exact = runs / np.sqrt((runs**2).mean(axis=2, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(result, exact.reshape(x.shape), rtol=2e-6)


@pytest.mark.parametrize(("rows", "heads", "head_dim"), [(1, 14, 64), (5, 3, 128), (4, 2, 40), (3, 1, 6)])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_rope(pool, rows, heads, head_dim, interleaved, in_place):
    x = values(1, rows, heads * head_dim)
    cos, sin = values(2, 50, head_dim // 2), values(3, 50, head_dim // 2)
    positions = np.random.default_rng(4).integers(0, 50, rows)
    result, *_ = run(
        pool,
        ROPE,
        [x],
        x.shape[1],
        rows=rows,
        offset=7,
        vectors=[vector(cos), vector(sin)],
        interleaved=interleaved,
        ids=positions,
        in_place=in_place,
    )
    assert_array_equal(result, rotate(x, cos[positions], sin[positions], interleaved))


@pytest.mark.parametrize("shape", SHAPES)
@np.errstate(all="ignore")
def test_convert(pool, shape):
    x = values(1, *shape, extremes=True)
    result, *forms = run(pool, CONVERT, [x], shape[1], rows=shape[0])
    assert_array_equal(result, x)
    check_forms(result, *forms)


@pytest.mark.parametrize("shape", [(1, 15), (17, 16), (2, 31), (33, 48), (16, 500), (5, 576), (3, 1000), (1, 4864)])
@np.errstate(all="ignore")
def test_rows_of_int8(pool, shape):
    """Of more and fewer rows than a tile; rows of zeros, of tiny and huge values, and some that are not finite."""
    x = values(3, *shape) * np.float32(10) ** np.random.default_rng(0).integers(-30, 30, (shape[0], 1)).astype(np.float32)
    x[shape[0] // 2] = [0, 1e-36, np.nan, np.inf, 3e38, 1e-39][sum(shape) % 6]
    for op, inputs in ((CONVERT, [x]), (ADD, [x, np.zeros_like(x)])):
        result, *_, i8 = run(pool, op, inputs, shape[1], rows=shape[0], without=("out_bf16", "out_q8"))
        check_i8(result, i8)


def test_select_rows(pool):
    x, ids = values(1, 6, 70), [4, 0, 5, 5]
    result, *forms = run(pool, SELECT_ROWS, [x], 70, rows=4, ids=ids)
    assert_array_equal(result, x[ids])
    check_forms(result, *forms)


def test_embedding(pool):
    """A bf16 table: panels of 16 rows, groups of 32 columns as [16 pairs][16 rows][2]."""
    table = values(1, 40, 96)
    stored = as_bf16(table).reshape(40, 3, 16, 2)
    panels = np.zeros((48, 3, 16, 2), np.uint16)
    panels[:40] = stored
    packed = aligned(panels.nbytes)
    packed[:] = np.ascontiguousarray(panels.reshape(3, 16, 3, 16, 2).transpose(0, 2, 3, 1, 4)).reshape(-1).view(np.uint8)
    ids = [39, 0, 17, 17, 5]
    result, *forms = run(pool, EMBEDDING, [], 96, rows=5, ids=ids, matrix=(packed, BF16, (40, 96)))
    assert_array_equal(result, (as_bf16(table)[ids].astype(np.uint32) << 16).view(np.float32))
    check_forms(result, *forms)


def test_embedding_of_int8_rows(pool):
    """Panels of [groups][16 quads][16 rows][4], then scales; rows are rotated back."""
    whole, scales = quantised(values(1, 32, 96))
    padded = np.zeros((32, 128), np.int8)
    padded[:, :96] = whole
    panels = padded.reshape(2, 16, 2, 16, 4).transpose(0, 2, 3, 1, 4).reshape(2, -1).view(np.uint8)
    packed = aligned(panels.size + scales.nbytes)
    packed[:] = np.concatenate([panels, scales.reshape(2, 16).view(np.uint8)], axis=1).reshape(-1)
    ids = [31, 0, 17, 17, 5]
    result, *forms = run(pool, EMBEDDING, [], 96, rows=5, ids=ids, matrix=(packed, I8, (32, 96)))
    assert_array_equal(result, rotated(whole * scales[:, None])[ids])
    check_forms(result, *forms)
