"""Rows' keys and values in the arena: rounded to bf16, at their slots, and nothing else touched."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tiercel.ops import Handle
from tiercel.ops.cpu import CpuOps
from tiercel.ops.cpu.library import LEVELS, address, best_level
from tiercel.ops.cpu.step import BoundKV
from tiercel.types import AttentionBatch, KVLayout

LAYERS = (2, 5, 7)
HERE = LEVELS[: LEVELS.index(best_level()) + 1]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-40], np.float32)


def to_bf16(x):
    """As uint16, to nearest even; nan stays nan."""
    bits = x.view(np.uint32).astype(np.uint64)
    return np.where(np.isnan(x), 0x7FC0, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize(("kv_heads", "head_dim", "block_tokens"), [(3, 64, 64), (2, 32, 16), (1, 24, 48), (1, 256, 128)])
def test_kv_write(level: str, threads: int, kv_heads: int, head_dim: int, block_tokens: int) -> None:
    layout = KVLayout(LAYERS, kv_heads, head_dim, "bfloat16", block_tokens)
    rng = np.random.default_rng(head_dim)
    ops = CpuOps(threads, level)
    arena = np.full(9 * layout.block_bytes, 0xA5, np.uint8)
    expected = arena.copy()
    blocks = expected.view(np.uint16).reshape(9, len(LAYERS), 2, kv_heads, block_tokens, head_dim)
    for rows in (1, 5, 70):
        slots = rng.permutation(9 * block_tokens)[:rows]
        slots[rng.random(rows) < 0.2] = -1
        k, v = (rng.standard_normal((rows, kv_heads * head_dim)).astype(np.float32) for _ in range(2))
        k[0, : len(SPECIAL)] = v[-1, : len(SPECIAL)] = SPECIAL
        batch = AttentionBatch(
            *(np.zeros(1, np.int32) for _ in range(2)), np.zeros((1, 1), np.int32), np.ones(1, np.int32), slots
        )
        kv = BoundKV(arena, layout, address(arena))
        ops.kv_write(Handle(k), Handle(v), Handle(kv), 5, Handle(batch))
        for row, slot in enumerate(slots):
            if slot >= 0:
                place = blocks[slot // block_tokens, LAYERS.index(5), :, :, slot % block_tokens]
                place[:] = to_bf16(np.stack([k[row], v[row]])).reshape(2, kv_heads, head_dim)
    assert_array_equal(arena, expected)
