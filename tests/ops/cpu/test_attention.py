"""Native attention: the bits of its written order, a dense softmax in float64, and what a row may not depend on."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tiercel.ops import Handle
from tiercel.ops.cpu import CpuOps
from tiercel.ops.cpu.library import LEVELS, address, best_level
from tiercel.ops.cpu.step import BoundKV
from tiercel.types import AttentionBatch, KVLayout

LAYER = 5
SPLIT = 128
HERE = LEVELS[: LEVELS.index(best_level()) + 1]
LOG2E = np.float32(1.44269504)


@cache
def ops(level: str, threads: int) -> CpuOps:
    return CpuOps(threads, level)


def bf16(x):
    """Rounded to nearest even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def make_layout(**changes):
    settings = {"layers": (2, LAYER, 7), "num_kv_heads": 2, "head_dim": 32, "format": "bfloat16"}
    return KVLayout(**(settings | changes))


@dataclass
class Scene:
    """A step over contexts in an arena that is nan elsewhere.

    keys, values: bf16 values by request, float32 [positions, kv_heads, head_dim]; there: by request, bool [positions].
    """

    layout: KVLayout
    arena: np.ndarray
    batch: AttentionBatch
    q: np.ndarray
    keys: list
    values: list
    there: list
    mask: np.ndarray | None = None

    @property
    def scale(self):
        return self.layout.head_dim**-0.5

    def rows(self, request):
        return slice(*self.batch.query_start[request : request + 2])

    def attention(self, level=HERE[-1], threads=1, scale=None, **options):
        """Result and log-sum-exp."""
        kv = BoundKV(self.arena, self.layout, address(self.arena))  # as bind_kv makes it, for heads of any size
        mask = None if self.mask is None else Handle(self.mask)
        results = ops(level, threads).attention(
            Handle(self.q),
            Handle(kv),
            LAYER,
            Handle(self.batch),
            scale=scale or self.scale,
            mask=mask,
            return_lse=True,
            **options,
        )
        return tuple(np.asarray(result) for result in results)

    def visible(self, window=None, sink_tokens=0):
        """Which keys each row sees, bool [rows, positions] by request."""
        seen = []
        for request, there in enumerate(self.there):
            positions = np.arange(len(there))
            distance = self.batch.q_positions[self.rows(request), None] - positions
            near = True if window is None else (distance < window) | (positions < sink_tokens)
            seen.append((distance >= 0) & near & there)
            if self.mask is not None:
                columns = min(self.mask.shape[1], len(there))
                seen[-1][:, columns:] = False
                seen[-1][:, :columns] &= ~self.mask[self.rows(request), :columns]
        return seen

    def assert_close(self, level=HERE[-1], threads=1, **options):
        """Against float64. A weight that is rounded to bf16 is off by at most one part in 2^8, their sum too."""
        out, lse = self.attention(level, threads, **options)
        kv_heads, size = self.layout.num_kv_heads, self.layout.head_dim
        q = bf16(self.q).astype(np.float64).reshape(len(self.q), kv_heads, -1, size)
        for request, seen in enumerate(self.visible(**options)):
            rows = self.rows(request)
            scores = np.einsum("rhgd,phd->rhgp", q[rows], self.keys[request]) * self.scale
            largest = np.where(seen[:, None, None], scores, -1e9).max(-1)
            weights = np.exp(np.where(seen[:, None, None], scores - largest[..., None], -np.inf))
            total = weights.sum(-1)
            weights /= np.maximum(total, 1e-300)[..., None]
            expected = np.einsum("rhgp,phd->rhgd", weights, self.values[request]).reshape(len(seen), -1)
            room = np.einsum("rhgp,phd->rhgd", weights, np.abs(self.values[request])).reshape(len(seen), -1) * 2**-7 + 1e-6
            assert (np.abs(out[rows] - expected) <= room).all()
            with np.errstate(divide="ignore"):
                assert_allclose(lse[rows], (np.log(total) + largest).reshape(len(seen), -1), rtol=0, atol=2**-7.9)


def make_scene(rows, before, layout, group=3, seed=0, whole=False):
    """Requests with `before` tokens of context and `rows` new ones. group: query heads of a kv head.

    whole: keys and queries of whole numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape, whole=False):
        return (rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)).astype(np.float32)

    size, lengths = layout.block_tokens, np.add(rows, before).astype(np.int32)
    entries = -(-lengths // size)
    free = list(rng.permutation(entries.sum() + 1))
    arena = np.full((len(free), layout.block_bytes), 0xFF, np.uint8)
    blocks = arena.view(np.uint16).reshape(len(free), len(layout.layers), 2, layout.num_kv_heads, size, layout.head_dim)
    tables = np.full((len(rows), entries.max()), -1, np.int32)
    shape = layout.num_kv_heads, layout.head_dim
    contexts = [[bf16(draw(n, *shape, whole=whole)), bf16(draw(n, *shape))] for n in lengths]
    for request, context in enumerate(contexts):
        for entry in range(entries[request]):
            tables[request, entry] = block = free.pop()
            for kind, stored in enumerate(context):
                piece = stored[entry * size : (entry + 1) * size].view(np.uint32) >> 16
                blocks[block, layout.layers.index(LAYER), kind, :, : len(piece)] = piece.transpose(1, 0, 2)
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
    positions = np.concatenate([np.arange(b, b + r) for r, b in zip(rows, before, strict=True)]).astype(np.int32)
    batch = AttentionBatch(starts, positions, tables, lengths, np.zeros(len(positions), np.int64))
    q = 2 * draw(len(positions), group * layout.num_kv_heads * layout.head_dim, whole=whole)
    keys, values = (list(part) for part in zip(*contexts, strict=True))
    return Scene(layout, arena.reshape(-1), batch, q, keys, values, [np.ones(n, bool) for n in lengths])


# -- the written order ------------------------------------------------------------------------------------------------------


def tile_product(x, w):
    """x [k] times w [k, columns] in the order of matrix tiles. Products of two bf16 are exact in float32."""
    total = np.zeros(w.shape[1], np.float32)
    for block in range(0, len(x), 32):
        even, odd = np.zeros((2, w.shape[1]), np.float32)
        for i in range(block, block + 32, 2):
            even = even + x[i] * w[i]
            odd = odd + x[i + 1] * w[i + 1]
        total = total + (even + odd)
    return total


def fma(a, b, c):
    return (a.astype(np.float64) * b + np.float64(c)).astype(np.float32)


def weight_of(x):
    """2^x as bf16, x at most a little above 1. What is cut off has been rounded by the polynomial's constant."""
    x = np.maximum(x, np.float32(-160))
    whole = np.floor(x)
    part = x - whole
    part = np.where(part + whole > x, np.nextafter(part, np.float32(0)), part)  # rounded down
    p = np.full_like(x, float.fromhex("0x1.3f96a4p-4"))
    for coefficient in ("0x1.cefc4cp-3", "0x1.64444cp-1", "0x1.00fb1ap0"):
        p = fma(p, part, float.fromhex(coefficient))
    p = np.ldexp(p, whole.astype(int))
    p = np.where(p < np.float32(2**-126), 0, p).astype(np.float32)  # denormals are flushed
    return (p.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def model(scene, row, head, request, seen, scale):
    """Result of one query as attention.cpp writes it down."""
    size, group = scene.layout.head_dim, scene.q.shape[1] // scene.layout.head_dim // scene.layout.num_kv_heads
    width, length = -(-size // 32) * 32, -(-len(seen) // SPLIT) * SPLIT
    padded = np.zeros((3, length, width), np.float32)
    q, keys, values = padded
    q[0, :size] = bf16(scene.q[row, head * size : (head + 1) * size])
    keys[: len(seen), :size] = scene.keys[request][:, head // group]
    values[: len(seen), :size] = scene.values[request][:, head // group] * seen[:, None]
    hidden = ~np.pad(seen, (0, length - len(seen)))
    factor, ones = np.float32(scale) * LOG2E, np.ones((SPLIT, 1), np.float32)
    largest, denominator, total = np.float32(-np.inf), np.float32(0), np.zeros(width, np.float32)
    for split in range(0, length, SPLIT):
        part = slice(split, split + SPLIT)
        scores = tile_product(q[0], keys[part].T)
        scores[hidden[part]] = -np.inf
        m = np.floor(scores.max() * factor)
        if m == -np.inf:
            continue
        p = weight_of(np.where(hidden[part], -np.inf, fma(np.where(hidden[part], 0, scores), factor, -m)).astype(np.float32))
        most = max(largest, m)
        old, new = (np.exp2(x - most, dtype=np.float32) for x in (largest, m))  # powers of two
        denominator = denominator * old + tile_product(p, ones)[0] * new
        total = total * old + tile_product(p, values[part]) * new
        largest = most
    return total[:size] * (np.float32(1) / denominator)


def assert_bits(scene, scale=None, **options):
    results = {level: scene.attention(level, threads=2, scale=scale, **options)[0] for level in HERE}
    heads, size = scene.q.shape[1] // scene.layout.head_dim, scene.layout.head_dim
    for request, seen in enumerate(scene.visible(**options)):
        rows = scene.rows(request)
        for row in {rows.start, (rows.start + rows.stop) // 2, rows.stop - 1}:
            for head in range(heads):
                expected = model(scene, row, head, request, seen[row - rows.start], scale or scene.scale)
                for level, result in results.items():
                    actual = result[row, head * size : (head + 1) * size]
                    assert_array_equal(actual.view(np.uint32), (expected + 0).view(np.uint32), f"{level} {row} {head}")


@pytest.mark.parametrize("head_dim", [32, 64, 96, 256, 24])
def test_bits_of_one_split(head_dim: int) -> None:
    scene = make_scene([5, 1, 30], [251, 100, 3], make_layout(head_dim=head_dim), group=3, seed=head_dim)
    scene.q *= 3  # weights of many magnitudes, so that the order of their sum shows
    assert_bits(scene)


def test_bits_of_one_split_behind_a_window() -> None:
    assert_bits(make_scene([5, 1], [240, 255], make_layout(), seed=1), window=70, sink_tokens=5)


def test_bits_of_several_splits() -> None:
    scene = make_scene([3, 1], [700, 1023], make_layout(head_dim=64))
    scene.q *= 3  # splits outweigh each other
    assert_bits(scene)
    assert_bits(scene, window=300, sink_tokens=2)


def test_bits_of_a_chunk() -> None:
    """Several tiles, the last of few queries, on both sides of a split's end."""
    scene = make_scene([70], [220], make_layout(num_kv_heads=1, head_dim=64), group=7)
    assert_bits(scene)


# -- what a row sees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "layout"),
    [
        (1, make_layout()),
        (3, make_layout(num_kv_heads=3, head_dim=64)),
        (7, make_layout(head_dim=64)),
        (20, make_layout(num_kv_heads=1, head_dim=24)),
        (4, make_layout(num_kv_heads=1, head_dim=256)),
        (2, make_layout(block_tokens=16)),
        (2, make_layout(block_tokens=512)),
        (2, make_layout(block_tokens=48)),
    ],
)
def test_prefill_chunk_and_decode_in_one_batch(group: int, layout: KVLayout) -> None:
    scene = make_scene([300, 1, 7, 1, 1, 40], [0, 511, 256, 3, 0, 250], layout, group)
    for level in HERE:
        scene.assert_close(level, threads=2)


LENGTHS = st.integers(0, 600) | st.sampled_from([31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513])


@given(
    requests=st.lists(st.tuples(st.integers(1, 70), LENGTHS), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 400),
    sinks=st.integers(0, 300),
    absent=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_windows_sinks_and_absent_blocks(requests, window, sinks, absent, seed) -> None:
    rows, before = (list(column) for column in zip(*requests, strict=True))
    rng = np.random.default_rng(seed)
    scene = make_scene(rows, before, make_layout(), group=int(rng.integers(1, 9)), seed=seed)
    tables, blocks = scene.batch.block_tables, scene.arena.reshape(-1, scene.layout.block_bytes)
    for request, entry in zip(rng.integers(0, len(rows), absent), rng.integers(0, tables.shape[1], absent), strict=True):
        if tables[request, entry] >= 0:
            blocks[tables[request, entry]] = 0xFF
            scene.there[request][entry * 64 : (entry + 1) * 64] = False
            tables[request, entry] = -1
    results = [
        scene.attention(level, threads, window=window, sink_tokens=sinks)
        for level, threads in zip((*HERE, HERE[-1]), (1, 2, 3, 4), strict=False)
    ]
    scene.assert_close(window=window, sink_tokens=sinks)
    for result in results[1:]:
        assert_same(result, results[0])


def assert_same(actual, expected):
    """Equal bits of results and log-sum-exp."""
    for a, b in zip(actual, expected, strict=True):
        assert_array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("columns", [401, 380])
def test_mask_hides_more(window: int | None, columns: int) -> None:
    scene = make_scene([6, 1, 150], [290, 400, 10], make_layout())
    scene.mask = np.random.default_rng(1).random((157, columns)) < 0.4
    scene.mask[3] = True  # a row that sees nothing
    out, lse = scene.attention(window=window)
    assert (out[3] == 0).all()
    assert (lse[3] == -np.inf).all()
    for level in HERE:
        scene.assert_close(level, threads=2, window=window)


def test_rows_that_see_nothing() -> None:
    scene = make_scene([4, 1], [60, 30], make_layout())
    scene.there[0][:] = False
    scene.batch.block_tables[0] = -1
    for level in HERE:
        out, lse = scene.attention(level)
        assert_array_equal(out[:4].view(np.uint32), 0)
        assert (lse[:4] == -np.inf).all()
        scene.assert_close(level)


def test_scores_of_any_size() -> None:
    """Weights vanish and splits outweigh each other, without overflow."""
    scene = make_scene([9], [900], make_layout())
    scene.q *= 300
    for level in HERE:
        scene.assert_close(level, threads=2)


def test_log_sum_exp_of_one_key() -> None:
    """With one key it is the score itself, up to the rounding of its weight."""
    scene = make_scene([40], [0], make_layout(), group=1)
    _, lse = scene.attention(window=1)
    q, keys = bf16(scene.q).reshape(40, 2, 32).astype(np.float64), scene.keys[0]
    assert_allclose(lse, (q * keys).sum(-1) * scene.scale, rtol=0, atol=2**-7.9)


# -- a row's bits depend on that row only ------------------------------------------------------------------------------------


def part_of(scene, first, last):
    """The same step with rows first .. last - 1 of its only request."""
    starts = np.array([0, last - first], np.int32)
    lengths = scene.batch.q_positions[last - 1 : last] + 1
    batch = replace(scene.batch, query_start=starts, q_positions=scene.batch.q_positions[first:last], lengths=lengths)
    return replace(scene, batch=batch, q=scene.q[first:last])


@pytest.mark.parametrize("options", [{}, {"window": 100, "sink_tokens": 40}])
@pytest.mark.parametrize("group", [1, 7])
def test_chunks_and_single_rows(group: int, options: dict) -> None:
    scene = make_scene([300], [230], make_layout(), group)
    whole = scene.attention(**options)
    for threads, level, chunk in ((1, HERE[0], 37), (2, HERE[-1], 64), (3, HERE[-1], 1), (4, HERE[-1], 150)):
        firsts = range(0, 300, chunk)
        parts = [part_of(scene, first, min(first + chunk, 300)).attention(level, threads, **options) for first in firsts]
        assert_same([np.concatenate(part) for part in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize(
    ("rows", "before"),
    [
        ([1] * 20, [37 * i for i in range(20)]),  # many small walks
        ([1, 1], [5000, 40]),  # one long one, which threads share
        ([150, 4, 150], [0, 8000, 0]),  # the same for several tiles
        ([100, 4, 4, 100], [0, 8000, 9000, 0]),
    ],
)
def test_neighbours_and_threads(rows: list[int], before: list[int]) -> None:
    scene = make_scene(rows, before, make_layout(), group=8)
    whole = scene.attention()
    for threads in (2, 3, 4):
        assert_same(scene.attention(HERE[-1], threads), whole)
    for request in range(len(rows)):
        mine = scene.rows(request)
        batch = AttentionBatch(
            np.array([0, rows[request]], np.int32),
            scene.batch.q_positions[mine],
            scene.batch.block_tables[request : request + 1],
            scene.batch.lengths[request : request + 1],
            scene.batch.slot_mapping[mine],
        )
        alone = replace(scene, batch=batch, q=scene.q[mine])
        assert_same(alone.attention(HERE[-1], 1 + request % 4), [part[mine] for part in whole])


def test_long_context() -> None:
    scene = make_scene([3], [32765], make_layout(num_kv_heads=1), group=3)
    scene.assert_close()
    whole = scene.attention()
    for level in HERE:
        assert_same(scene.attention(level, 4), whole)
