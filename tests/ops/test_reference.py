"""Each op of the reference back end against plain numpy in float64. Attention has a file of its own."""

import numpy as np
import pytest
import torch

from tests.support.networks import weight
from tests.support.steps import PagedContexts
from tiercel.ops import Handle, load_ops
from tiercel.types import FORMATS, KVGroup, KVLayout, RopeConfig, Weight

OPS = load_ops()
RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def handle(values: np.ndarray) -> Handle:
    return Handle(torch.from_numpy(values))


def close(actual: Handle, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-5)


def test_embedding_picks_rows() -> None:
    table, ids = random(7, 20), np.array([3, 0, 3, 6])
    np.testing.assert_array_equal(np.asarray(OPS.embedding(handle(ids), OPS.pack(weight(table)))), table[ids])


def test_pack_joins_along_out() -> None:
    parts = [random(out, 24) for out in (5, 9, 1)]
    x, joined = random(3, 24), OPS.pack(*map(weight, parts))
    close(OPS.linear(handle(x), joined), x @ np.concatenate(parts).T)
    vectors = [random(5), random(9)]
    np.testing.assert_array_equal(np.asarray(OPS.pack(*map(weight, vectors))), np.concatenate(vectors))


def test_pack_reads_stored_formats() -> None:
    values = random(6, 32).astype(np.float16)
    half = Weight(values.reshape(-1).view(np.uint8), FORMATS["F16"], values.shape)
    whole = random(2, 32)
    rows = OPS.embedding(handle(np.arange(8)), OPS.pack(half, weight(whole)))
    np.testing.assert_array_equal(np.asarray(rows), np.concatenate([values.astype(np.float32), whole]))


@pytest.mark.parametrize("rows", [0, 1, 16, 21])
@pytest.mark.parametrize("channels", [8, 320, 321, 1000])
def test_linear(rows: int, channels: int) -> None:
    x, matrix, bias = random(rows, channels), random(12, channels) / np.float32(channels**0.5), random(12)
    expected = x.astype(np.float64) @ matrix.T
    packed = OPS.pack(weight(matrix))
    close(OPS.linear(handle(x), packed), expected)
    close(OPS.linear(handle(x), packed, OPS.pack(weight(bias))), expected + bias)


@pytest.mark.parametrize("heads", [1, 3])
def test_rms_norm(heads: int) -> None:
    x, scale = random(5, heads * 20), random(20)
    runs = x.reshape(5, heads, 20).astype(np.float64)
    expected = runs / np.sqrt((runs**2).mean(-1, keepdims=True) + 0.1) * scale
    close(OPS.rms_norm(handle(x), OPS.pack(weight(scale)), 0.1), expected.reshape(5, -1))


def test_add_split_and_select_rows() -> None:
    a, b = random(4, 10), random(4, 10)
    close(OPS.add(handle(a), handle(b)), a + b)
    for part, expected in zip(OPS.split(handle(a), (3, 1, 6)), np.split(a, [3, 4], axis=1), strict=True):
        np.testing.assert_array_equal(np.asarray(part), expected)
    rows = np.array([2, 2, 0])
    np.testing.assert_array_equal(np.asarray(OPS.select_rows(handle(a), handle(rows))), a[rows])


def test_silu_mul() -> None:
    gate, up = np.float32([[-200, -90, -3, -0.0, 0, 1e-3, 2, 90]]), random(1, 8)
    expected = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64))) * up
    close(OPS.silu_mul(handle(gate), handle(up)), expected)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_is_a_complex_rotation(interleaved: bool) -> None:
    x, positions = random(6, 3 * 8), np.array([0, 1, 5, 1, 99, 42])
    table = OPS.pack_rope(RopeConfig(8, theta=50.0, interleaved=interleaved), 100)
    heads = x.reshape(6, 3, 4, 2) if interleaved else x.reshape(6, 3, 2, 4).swapaxes(2, 3)
    angles = positions[:, None, None] * 50.0 ** (-np.arange(4) / 4)
    turned = (heads[..., 0] + 1j * heads[..., 1]) * np.exp(1j * angles)
    parts = np.stack([turned.real, turned.imag], axis=-1)
    expected = parts if interleaved else parts.swapaxes(2, 3)
    close(OPS.rope(handle(x), handle(positions), table), expected.reshape(6, -1))


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_kv_write_puts_rows_where_the_layout_says(format: str) -> None:
    layout = KVLayout((1, 4), num_kv_heads=2, head_dim=8, format=format)
    contexts = PagedContexts([KVGroup(layout)], num_blocks=5)
    kv = OPS.bind_kv(contexts.arenas[0], layout)
    step = contexts.step({"a": range(70), "b": range(3)})
    k, v = random(73, 16), random(73, 16)
    OPS.kv_write(handle(k), handle(v), kv, 4, OPS.begin(step).batches[0])
    blocks = contexts.arenas[0].reshape(-1, layout.block_bytes)
    untouched = np.ones_like(blocks, bool)
    for row, slot in enumerate(step.groups[0].slot_mapping):
        for kind, values in (("k", k), ("v", v)):
            for head in range(2):
                expected = torch.from_numpy(values[row, head * 8 : head * 8 + 8]).to(getattr(torch, format))
                segment, size = layout.segment(4, kind, head), expected.nbytes
                place = slice(segment.offset + slot % 64 * size, segment.offset + (slot % 64 + 1) * size)
                np.testing.assert_array_equal(blocks[slot // 64, place], expected.view(torch.uint8).numpy())
                untouched[slot // 64, place] = False
    assert (blocks[untouched] == 0xFF).all()


def test_copy_blocks_reads_all_sources_first() -> None:
    layout = KVLayout((0,), num_kv_heads=1, head_dim=4)
    arena = np.repeat(np.arange(4, dtype=np.uint8), layout.block_bytes)
    OPS.copy_blocks(OPS.bind_kv(arena, layout), np.array([[0, 1], [1, 2], [3, 0]], np.int32))
    np.testing.assert_array_equal(arena.reshape(4, -1)[:, 0], [3, 0, 1, 3])


def test_sample_takes_the_most_likely_token() -> None:
    step = PagedContexts([KVGroup(KVLayout((0,), 1, 4))]).step({"a": [1, 2], "b": [3]})
    assert OPS.sample(handle(np.float32([[0, 3, 1], [5, 4, 3]])), step.sampling).token_ids.tolist() == [1, 0]


def test_handles_of_another_kind_are_refused() -> None:
    table = OPS.pack_rope(RopeConfig(8), 10)
    with pytest.raises(TypeError, match="expected a Tensor of the reference back end, got a RotationTable"):
        OPS.add(table, table)


def test_numerics_names_the_accumulation_order() -> None:
    assert OPS.numerics.startswith("reference-f32-")
