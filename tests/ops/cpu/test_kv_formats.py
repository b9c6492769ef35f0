"""KV in int8 and int4: the bytes that rows become, and attention, with the bits of attention over what they are read as."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.support.steps import PagedContexts
from tiercel.ops import Handle
from tiercel.ops.cpu import CpuOps
from tiercel.ops.cpu.library import LEVELS, best_level
from tiercel.types import AttentionBatch, KVGroup, KVLayout

LAYER = 5
OWN = 64  # positions of an own block
HERE = LEVELS[: LEVELS.index(best_level()) + 1]
FORMATS = ("int8", "int4", "int4-plain")
ROTATED = ("int8", "int4")
SPECIAL = np.array([0.0, -0.0, 1 + 2**-8, -1 - 3 * 2**-8, 3.4e38, -1e-40, 1e-30, 6e5, np.inf, -np.inf, np.nan], np.float32)
TINY = np.float32(2) ** -126


@cache
def ops(level: str, threads: int) -> CpuOps:
    return CpuOps(threads, level)


# -- the formats as they are written down -----------------------------------------------------------------------------------


def bf16(x):
    """Rounded to nearest even, as float32; nan stays nan."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), rounded).view(np.float32)


def rotate(x):
    """Along the last axis, by runs of the largest power of two that divides it."""
    size = x.shape[-1]
    run = size & -size
    x = np.array(x, np.float32).reshape(-1, run)
    half = run // 2
    while half:
        pairs = x.reshape(-1, run // (2 * half), 2, half)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(-1, run)
        half //= 2
    return (x * (np.float32(1) / np.sqrt(np.float32(run)))).reshape(-1, size)


def encode(x, form):
    """Rows [n, head_dim] of numbers that are not rotated any more: values and scales, uint8 [n, bytes] each."""
    with np.errstate(all="ignore"):
        return encode_int8(x) if form == "int8" else encode_int4(x)


def encode_int8(x):
    magnitude = np.abs(x).max(1, keepdims=True)
    scale = magnitude / np.float32(127)
    scale = np.where(np.isfinite(magnitude), np.where(scale < TINY, np.float32(0), scale), np.float32(np.nan))
    whole = np.where(scale > 0, np.round(x / scale), 0)
    return whole.astype(np.int8).view(np.uint8), scale.astype(np.float32).view(np.uint8)


def encode_int4(x):
    runs = x.reshape(len(x), -1, 32)
    magnitude = np.abs(runs).max(2, keepdims=True)
    scale = np.minimum(magnitude / np.float32(8), np.float32(65504)).astype(np.float16)
    scale = np.where(np.fmax(runs.max(2, keepdims=True), 0) == magnitude, -scale, scale)
    scale = np.where(np.isfinite(magnitude), scale, np.float16(np.nan))
    whole = np.where(np.abs(scale) > 0, np.clip(np.round(runs / scale.astype(np.float32)), -8, 7), 0)
    codes = (whole + 8).astype(np.uint8)
    return (codes[:, :, :16] | codes[:, :, 16:] << 4).reshape(len(x), -1), scale[:, :, 0].view(np.uint8)


def decode(values, scales, form):
    """What rows are read as: bf16 as float32 [n, head_dim]."""
    with np.errstate(all="ignore"):
        if form == "int8":
            return bf16(values.view(np.int8).astype(np.float32) * scales.view(np.float32))
        codes = values.reshape(len(values), -1, 16)
        whole = np.concatenate([codes & 15, codes >> 4], 2).astype(np.float32) - 8
        return bf16(whole * scales.view(np.float16)[:, :, None].astype(np.float32)).reshape(len(values), -1)


def as_read(x, form):
    return decode(*encode(x, form), form)


# -- contexts ---------------------------------------------------------------------------------------------------------------


class Contexts:
    """Requests whose keys and values are written and read step by step. Memory is nan where nothing was written."""

    def __init__(self, layout: KVLayout, level: str = HERE[-1], threads: int = 1, num_blocks: int = 64) -> None:
        self.layout, self.ops = layout, ops(level, threads)
        self.paged = PagedContexts([KVGroup(layout)], num_blocks)
        self.kv = self.ops.bind_kv(self.paged.arenas[0], layout)
        if self.kv.open is not None:
            self.kv.open.memory[:] = 0xFF
        self.absent: set[int] = set()  # entries of tables, once all of their tokens have been written

    def batch(self, counts: Mapping[str, int]) -> AttentionBatch:
        starts = [self.paged.lengths.get(name, 0) for name in counts]
        batch = self.paged.step({name: [0] * count for name, count in counts.items()}).groups[0]
        for table, start in zip(batch.block_tables, starts, strict=True):
            table[[entry for entry in self.absent if (entry + 1) * self.layout.block_tokens <= start]] = -1
        return batch

    def step(self, rows: Mapping[str, Sequence[np.ndarray]], **options) -> dict[str, np.ndarray]:
        """rows: q, k, v by request, float32 [n, channels]. Results with their log-sum-exp as last channels."""
        counts = {name: len(q) for name, (q, _, _) in rows.items()}
        batch = self.batch(counts)
        q, k, v = (np.concatenate(parts) for parts in zip(*rows.values(), strict=True))
        self.ops.kv_write(Handle(k), Handle(v), self.kv, LAYER, Handle(batch))
        scale = self.layout.head_dim**-0.5
        out, lse = self.ops.attention(Handle(q), self.kv, LAYER, Handle(batch), scale=scale, return_lse=True, **options)
        both = np.concatenate([np.asarray(out), np.asarray(lse)], 1)
        return dict(zip(counts, np.split(both, batch.query_start[1:-1]), strict=True))


def make_layout(form="int8", **changes):
    return KVLayout(**({"layers": (2, LAYER, 7), "num_kv_heads": 2, "head_dim": 32, "format": form} | changes))


def draw(count, layout, group=3, seed=0):
    """q, k, v of some rows; keys and values with a channel that stands out."""
    rng = np.random.default_rng(seed)
    size = layout.num_kv_heads * layout.head_dim
    q, k, v = (rng.standard_normal((count, heads * size)).astype(np.float32) for heads in (group, 1, 1))
    k[:, 3::32] *= 10
    return 2 * q, k, v


def in_chunks(layout, rows, chunks, level=HERE[-1], threads=1, absent=(), **options):
    """One request's results, its rows in chunks of given lengths over and over."""
    contexts = Contexts(layout, level, threads)
    contexts.absent = set(absent)
    results, first = [], 0
    while first < len(rows[0]):
        last = first + chunks[len(results) % len(chunks)]
        results.append(contexts.step({"a": [x[first:last] for x in rows]}, **options)["a"])
        first = last
    return np.concatenate(results)


def expected(layout, rows, absent=(), **options):
    """The same by bf16: for each own block an arena of what its queries read."""
    form, size = layout.format, layout.head_dim
    turn = rotate if form in ROTATED else lambda x: x
    q, k, v = (turn(x.reshape(-1, size)).reshape(x.shape) for x in rows)
    wide = KVLayout(layout.layers, layout.num_kv_heads, size, "bfloat16", layout.block_tokens)
    read = [as_read(x.reshape(-1, size), form).reshape(x.shape) for x in (k, v)]
    results = []
    for first in range(0, len(q), OWN):
        start = first if form != "int8" else len(q)
        mixed = [np.concatenate([old[:start], new[start:]]) for old, new in zip(read, (k, v), strict=True)]
        rest = [x[: first + OWN] for x in mixed]
        queries = np.concatenate([np.zeros((first, q.shape[1]), np.float32), q[first : first + OWN]])
        chunks = [first, OWN] if first else [OWN]
        results.append(in_chunks(wide, (queries, *rest), chunks, absent=absent, **options)[first:])
    out = np.concatenate(results)
    channels = q.shape[1]
    turned = turn(out[:, :channels].reshape(-1, size)).reshape(-1, channels)
    return np.concatenate([turned, out[:, channels:]], 1)


def assert_same(actual, wanted):
    assert_array_equal((actual + 0).view(np.uint32), (wanted + 0).view(np.uint32))


# -- writing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "block_tokens"), [(3, 64, 64), (2, 32, 16), (1, 96, 128), (1, 128, 48), (2, 224, 64), (1, 256, 64)]
)
def test_bytes(form: str, kv_heads: int, head_dim: int, block_tokens: int) -> None:
    layout = make_layout(form, num_kv_heads=kv_heads, head_dim=head_dim, block_tokens=block_tokens)
    for level, threads in zip((*HERE, HERE[-1]), (1, 2, 3, 4), strict=False):
        contexts = Contexts(layout, level, threads)
        arena = contexts.paged.arenas[0]
        wanted = arena.copy()
        for number, counts in enumerate([{"a": 1, "b": 63}, {"b": 1, "a": 200}, {"a": 2}]):
            batch = contexts.batch(counts)
            _, k, v = draw(sum(counts.values()), layout, seed=number)
            for x in (k, v):
                x[0, : len(SPECIAL)] = SPECIAL
                x[-1, head_dim - 32 : head_dim] = 0
                x[-1, -32:] *= np.float32(1e-7)
                x[-1, :32] = SPECIAL[number]
            batch.slot_mapping[1:2] = -1
            contexts.ops.kv_write(Handle(k), Handle(v), contexts.kv, LAYER, Handle(batch))
            for kind, x in (("k", k), ("v", v)):
                write(layout, wanted, batch.slot_mapping, kind, x)
        assert_array_equal(arena, wanted)


def write(layout, arena, slots, kind, x):
    """The rows of x to their slots."""
    size, form = layout.head_dim, layout.format
    blocks = arena.reshape(-1, layout.block_bytes)
    for head in range(layout.num_kv_heads):
        rows = x[:, head * size : (head + 1) * size]
        with np.errstate(all="ignore"):
            rows = rotate(rows) if form in ROTATED else rows
        values, scales = encode(rows, form)
        offset, length = layout.segment(LAYER, kind, head)
        segments = blocks[:, offset : offset + length]
        split = layout.block_tokens * values.shape[1]
        for row, slot in enumerate(slots):
            block, place = divmod(slot, layout.block_tokens)
            if slot >= 0:
                segments[block, :split].reshape(layout.block_tokens, -1)[place] = values[row]
                segments[block, split:].reshape(layout.block_tokens, -1)[place] = scales[row]


@pytest.mark.parametrize("head_dim", [16, 64, 96, 256])
def test_rotation_is_orthogonal_and_its_own_inverse(head_dim: int) -> None:
    x = np.random.default_rng(0).standard_normal((5, head_dim)).astype(np.float32)
    np.testing.assert_allclose(rotate(rotate(x)), x, atol=1e-5)
    np.testing.assert_allclose((rotate(x) ** 2).sum(1), (x**2).sum(1), rtol=1e-5)


# -- reading ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("count", "group", "changes"),
    [
        (330, 3, {"head_dim": 64}),
        (150, 7, {"head_dim": 96, "num_kv_heads": 1}),
        (150, 1, {"head_dim": 256, "num_kv_heads": 1}),
        (200, 2, {"block_tokens": 16}),
        (300, 2, {"block_tokens": 128}),
        (200, 20, {"block_tokens": 48}),
    ],
)
def test_bits(form: str, count: int, group: int, changes: dict) -> None:
    layout = make_layout(form, **changes)
    rows = draw(count, layout, group)
    wanted = expected(layout, rows)
    for level in HERE:
        assert_same(in_chunks(layout, rows, [count], level, threads=2), wanted)
        assert_same(in_chunks(layout, rows, [1, 100, 40, 64, 3], level), wanted)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 512])
def test_chunks_and_threads(form: str, chunk: int) -> None:
    layout = make_layout(form, num_kv_heads=1)
    rows = draw(530, layout, group=4)
    whole = in_chunks(layout, rows, [530])
    assert_same(in_chunks(layout, rows, [chunk], HERE[chunk % len(HERE)], 1 + chunk % 3), whole)


@given(
    form=st.sampled_from(FORMATS),
    chunks=st.lists(st.integers(1, 130), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 300),
    sinks=st.integers(0, 100),
    absent=st.sets(st.integers(0, 14), max_size=5),
    block_tokens=st.sampled_from([16, 64, 128]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_windows_sinks_and_absent_blocks(form, chunks, window, sinks, absent, block_tokens, seed) -> None:
    layout = make_layout(form, num_kv_heads=1, block_tokens=block_tokens)
    rows = draw(350, layout, group=2, seed=seed)
    options = {"absent": {entry for entry in absent if (entry + 1) * block_tokens <= 256}, "window": window}
    wanted = expected(layout, rows, sink_tokens=sinks, **options)
    actual = in_chunks(layout, rows, [256, *chunks], HERE[seed % len(HERE)], 2, sink_tokens=sinks, **options)
    assert_same(actual[256:], wanted[256:])


@pytest.mark.parametrize("form", FORMATS)
def test_neighbours(form: str) -> None:
    """Requests that begin and end within blocks, several in a step."""
    layout = make_layout(form)
    rows = {name: draw(count, layout, seed=count) for name, count in {"a": 190, "b": 70, "c": 300}.items()}
    alone = {name: in_chunks(layout, x, [len(x[0])]) for name, x in rows.items()}
    contexts, at = Contexts(layout, threads=2), dict.fromkeys(rows, 0)
    for counts in ({"a": 30, "b": 1}, {"b": 69, "c": 200}, {"c": 99, "a": 159}, {"a": 1, "c": 1}):
        parts = {name: [x[at[name] : at[name] + n] for x in rows[name]] for name, n in counts.items()}
        for name, result in contexts.step(parts).items():
            assert_same(result, alone[name][at[name] : at[name] + counts[name]])
            at[name] += counts[name]


@pytest.mark.parametrize(("form", "room"), [("int8", 0.02), ("int4", 0.2)])
def test_close_to_exact(form: str, room: float) -> None:
    layout = make_layout(form, num_kv_heads=1, head_dim=64)
    q, k, v = draw(300, layout, group=1)
    k[:, 3::32] /= 10
    out = in_chunks(layout, (q, k, v), [300])[:, :-1]
    scores = np.where(np.tri(300, dtype=bool), q.astype(np.float64) @ k.T / 8, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    exact = weights @ v / weights.sum(1, keepdims=True)
    assert np.linalg.norm(out - exact) <= room * np.linalg.norm(exact)
