"""Copies of blocks, as they are and from one format into another: the bytes that numpy copies, or that kv_write stores."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tiercel.ops import Handle
from tiercel.ops.cpu import CpuOps
from tiercel.ops.cpu.blocks import copy_blocks
from tiercel.ops.cpu.library import Pool, aligned
from tiercel.types import AttentionBatch, KVLayout

BLOCKS, LAYERS, HEADS, SIZE, TOKENS = 7, (1, 4, 6), 2, 64, 64
FORMATS = ("float32", "bfloat16", "int8", "int4", "int4-plain")


@pytest.fixture(params=[1, 2, 4], ids=lambda threads: f"{threads} threads", scope="module")
def pool(request):
    return Pool(request.param, "avx2")


def layout(format="bfloat16", size=SIZE):
    return KVLayout(LAYERS, HEADS, size, format, TOKENS)


def random_bytes(shape, seed=0, blocks=BLOCKS):
    arena = aligned(blocks * shape.block_bytes)
    arena[:] = np.random.default_rng(seed).integers(0, 256, len(arena), np.uint8)
    return arena


def numbers(seed=0):
    """float32 [blocks, layers, k or v, heads, tokens, size], each a bf16."""
    x = np.random.default_rng(seed).standard_normal((BLOCKS, len(LAYERS), 2, HEADS, TOKENS, SIZE), np.float32)
    x[0, 0, 0, 0, :3] = [[0], [1e30], [-3]]
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def stored(format, values):
    """Blocks of these values, float32 or bf16 by numpy, others by kv_write."""
    if format == "float32":
        return values.reshape(-1).view(np.uint8).copy()
    if format == "bfloat16":
        return (values.reshape(-1).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    ops, shape = CpuOps(2), layout(format)
    arena = aligned(BLOCKS * shape.block_bytes)
    kv = ops.bind_kv(arena, shape)
    rows = BLOCKS * TOKENS
    positions = np.arange(rows, dtype=np.int32)
    batch = AttentionBatch(
        query_start=np.array([0, rows], np.int32),
        q_positions=positions,
        block_tables=np.arange(BLOCKS, dtype=np.int32)[None],
        lengths=np.array([rows], np.int32),
        slot_mapping=positions.astype(np.int64),
    )
    for place, layer in enumerate(LAYERS):
        k, v = (values[:, place, kind].transpose(0, 2, 1, 3).reshape(rows, HEADS * SIZE).copy() for kind in range(2))
        ops.kv_write(Handle(k), Handle(v), kv, layer, Handle(batch))
    return arena


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("layers", [None, (0, 1), (1, 3), (2, 2)])
def test_blocks_of_one_format(pool, format, layers):
    shape = layout(format)
    source, destination = random_bytes(shape), random_bytes(shape, seed=1)
    expected = destination.copy().reshape(BLOCKS, len(LAYERS), -1)
    first, last = layers or (0, 3)
    pairs = np.array([(3, 0), (0, 5), (3, 6), (6, 1)], np.int32)
    for one, other in pairs:
        expected[other, first:last] = source.reshape(expected.shape)[one, first:last]
    copy_blocks(pool, source, shape, destination, shape, pairs, layers)
    assert_array_equal(destination.reshape(expected.shape), expected)


def test_more_than_caches_hold(pool):
    """Copies of 16 MiB take another way, and so do targets that are not aligned to it."""
    shape = layout()
    source = random_bytes(shape, blocks=150)
    memory = aligned(len(source) + 64)
    pairs = np.stack([np.arange(150), np.arange(150)[::-1]], axis=1).astype(np.int32)
    for offset in (0, 2):
        target = memory[offset : offset + len(source)]
        copy_blocks(pool, source, shape, target, shape, pairs)
        assert_array_equal(target.reshape(150, -1), source.reshape(150, -1)[::-1])


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 0)], [(0, 1), (0, 2), (1, 3)], [(4, 4), (4, 5)], []])
def test_all_sources_are_read_before_anything_is_written(pool, pairs):
    shape = layout()
    arena, ids = random_bytes(shape), np.array(pairs, np.int32).reshape(-1, 2)
    expected = arena.copy().reshape(BLOCKS, -1)
    expected[ids[:, 1]] = expected[ids[:, 0]]
    copy_blocks(pool, arena, shape, arena, shape, ids)
    assert_array_equal(arena.reshape(BLOCKS, -1), expected)


@pytest.mark.parametrize(("one", "other"), list(product(("float32", "bfloat16"), FORMATS)))
def test_rows_are_stored_as_kv_write_stores_them(pool, one, other):
    values = numbers()
    source, expected = stored(one, values), stored(other, values)
    shape = layout(other)
    destination = aligned(BLOCKS * shape.block_bytes)
    copy_blocks(pool, source, layout(one), destination, shape, np.repeat(np.arange(BLOCKS, dtype=np.int32)[:, None], 2, axis=1))
    assert_array_equal(destination, expected)


@pytest.mark.parametrize(("one", "error"), [("bfloat16", 0), ("int8", 0.02), ("int4", 0.3), ("int4-plain", 0.3)])
def test_what_was_stored_comes_back_about_as_it_was(pool, one, error):
    values = numbers()
    values[0, 0, 0, 0] = 1
    shape = layout("float32")
    out = aligned(BLOCKS * shape.block_bytes)
    ids = np.repeat(np.arange(BLOCKS, dtype=np.int32)[:, None], 2, axis=1)
    copy_blocks(pool, stored(one, values), layout(one), out, shape, ids)
    assert np.abs(out.view(np.float32) - values.reshape(-1)).mean() <= error / 2
    again = aligned(BLOCKS * layout(one).block_bytes)
    copy_blocks(pool, out, shape, again, layout(one), ids)
    assert one != "bfloat16" or (again == stored(one, values)).all()


def test_some_layers_are_converted(pool):
    values = numbers()
    source, whole = stored("bfloat16", values), stored("int8", values)
    destination = random_bytes(layout("int8"), seed=5)
    expected = destination.copy().reshape(BLOCKS, len(LAYERS), -1)
    expected[2, 1:] = whole.reshape(expected.shape)[6, 1:]
    copy_blocks(pool, source, layout(), destination, layout("int8"), np.array([(6, 2)], np.int32), (1, 3))
    assert_array_equal(destination.reshape(expected.shape), expected)


def test_what_cannot_be_copied(pool):
    shape, pairs = layout(), np.array([(0, 1)], np.int32)
    arena = random_bytes(shape)
    before = arena.copy()
    with pytest.raises(IndexError, match="blocks 0 to 7 of 7"):
        copy_blocks(pool, arena, shape, arena, shape, np.array([(0, 1), (1, 0), (7, 2)], np.int32))
    with pytest.raises(IndexError, match="layers 1 to 4"):
        copy_blocks(pool, arena, shape, arena, shape, pairs, (1, 4))
    with pytest.raises(ValueError, match="different shapes"):
        copy_blocks(pool, arena, shape, arena, layout(size=32), pairs)
    with pytest.raises(ValueError, match="heads of 48 channels"):
        copy_blocks(pool, arena, layout(size=48), random_bytes(layout("float32")), layout("float32", 48), pairs)
    with pytest.raises(ValueError, match="contiguous"):
        copy_blocks(pool, arena, shape, arena[::2], shape, pairs)
    assert_array_equal(arena, before)
