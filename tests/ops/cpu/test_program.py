"""Whole models as native programs: the same bits as op by op, at every instruction set and thread count; near the reference."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support.networks import NETWORKS, VOCAB, Network, Run, groups, weights, widened
from tiercel.models.build import build_model
from tiercel.ops import load_ops
from tiercel.ops.cpu import CpuOps, best_level
from tiercel.ops.cpu.backend import CompiledModel
from tiercel.ops.cpu.library import LEVELS
from tiercel.ops.cpu.packing import PackedDtype

MACHINE_LEVELS = LEVELS[: LEVELS.index(best_level()) + 1]
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 400)
STEPS = ({"a": TOKENS[:90]}, {"a": TOKENS[90:91], "b": TOKENS[:3], "c": TOKENS[:300]}, {"c": TOKENS[300:301]})


@cache
def ops(level: str = "auto", threads: int = 2, dtype: PackedDtype = "bf16") -> CpuOps:
    return CpuOps(threads, level, dtype)


def eager(network: Network, back_end: CpuOps) -> Run:
    return Run(network.config, weights(network), back_end, kv_format="bfloat16")


def compiled(network: Network, back_end: CpuOps) -> Run:
    run = eager(network, back_end)
    run.model = compile_model(network, back_end)
    return run


def compile_model(network: Network, back_end: CpuOps) -> CompiledModel:
    layouts = [group.layout for group in groups(network.config, kv_format="bfloat16")]
    return back_end.compile(build_model(network.config, weights(network), back_end), layouts)


def logits(run: Run) -> np.ndarray:
    """Of all rows of all steps."""
    return np.concatenate([values.copy() for chunks in STEPS for values in run.logits(chunks).values()])


@pytest.mark.parametrize("dtype", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_equals_its_ops_one_by_one(name: str, dtype: PackedDtype) -> None:
    """Fusion, memory that is used again and missing barriers would show."""
    network = widened(NETWORKS[name])
    np.testing.assert_array_equal(logits(compiled(network, ops(dtype=dtype))), logits(eager(network, ops(dtype=dtype))))


@pytest.mark.parametrize("dtype", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("level", MACHINE_LEVELS)
def test_instruction_sets_and_thread_counts_give_the_same_bits(level: str, dtype: PackedDtype) -> None:
    network = widened(NETWORKS["qwen3-window"])
    expected = logits(compiled(network, ops(dtype=dtype)))
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(logits(compiled(network, ops(level, threads, dtype))), expected)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "int4"])
def test_a_row_does_not_depend_on_its_batch_or_chunk(dtype: PackedDtype) -> None:
    network = widened(NETWORKS["qwen2-upper-window"])
    alone, beside = compiled(network, ops(dtype=dtype)), compiled(network, ops(dtype=dtype))
    expected = alone.logits({"a": TOKENS})["a"].copy()
    seen, start = [], 0
    for count in (1, 70, 2, 17, 200, 1, 109):
        chunks = {"x": TOKENS[:count], "a": TOKENS[start : start + count], "y": TOKENS[5:9]}
        seen.append(beside.logits(chunks)["a"].copy())
        start += count
    np.testing.assert_array_equal(np.concatenate(seen), expected)


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.1), ("int8", 0.25), ("int4", 0.8)])
@pytest.mark.parametrize("name", NETWORKS)
def test_near_the_reference(name: str, dtype: PackedDtype, most: float) -> None:
    """Errors as a part of the logits' spread. bf16 keeps 8 bits of each weight, input, key and value, and the networks are
    made to be sensitive; 4 bits keep a step of 1/15 of a group's span."""
    network = widened(NETWORKS[name])
    expected = logits(Run(network.config, weights(network), load_ops("reference")))
    error = logits(compiled(network, ops(dtype=dtype))) - expected
    assert error.std() / expected.std() < most


@pytest.mark.parametrize("name", ["llama", "qwen2-upper-window"])
def test_a_saved_program_computes_the_same(name: str, tmp_path: Path) -> None:
    network, file = widened(NETWORKS[name]), tmp_path / "deep" / "model.program"
    run = compiled(network, ops())
    assert ops().save(run.model, file)
    expected = logits(run)
    run = eager(network, ops())
    restored = ops().restore(file, [group.layout for group in groups(network.config, kv_format="bfloat16")])
    assert restored is not None
    run.model = restored
    np.testing.assert_array_equal(logits(run), expected)
    assert [path.name for path in file.parent.iterdir()] == ["model.program"]


def test_a_damaged_program_counts_as_none(tmp_path: Path) -> None:
    network, file = widened(NETWORKS["llama"]), tmp_path / "model.program"
    layouts = [group.layout for group in groups(network.config, kv_format="bfloat16")]
    assert ops().restore(file, layouts) is None
    ops().save(compile_model(network, ops()), file)
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for place in [0, 20, 50, 60, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert ops().restore(file, layouts) is None
    for length in [0, 10, 48, 60, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert ops().restore(file, layouts) is None
    file.write_bytes(whole)
    assert ops().restore(file, layouts) is not None


def test_a_hook_is_called_before_each_layer() -> None:
    network = widened(NETWORKS["qwen2-upper-window"])
    plain, hooked = compiled(network, ops()), compiled(network, ops())
    seen: list[tuple[int, int]] = []
    assert isinstance(hooked.model, CompiledModel)
    hooked.model.on_layer = lambda group, layer: seen.append((group, layer))
    np.testing.assert_array_equal(logits(hooked), logits(plain))
    assert seen == [(0, 0), (1, 0), (1, 1)] * len(STEPS)


def test_a_hook_sees_kv_that_it_brings() -> None:
    """Blocks may arrive as late as the hook of their layer."""
    network = widened(NETWORKS["llama"])
    late, plain = compiled(network, ops()), compiled(network, ops())
    expected = [plain.logits({"a": part})["a"].copy() for part in (TOKENS[:100], TOKENS[100:130])][1]
    late.logits({"a": TOKENS[:100]})
    kept = [arena.copy() for arena in late.contexts.arenas]
    for arena in late.contexts.arenas:
        arena[:] = 0xFF
    layout = late.contexts.groups[0].layout

    def bring(group: int, layer: int) -> None:
        for kind in ("k", "v"):
            for head in range(layout.num_kv_heads):
                at, size = layout.segment(layer, kind, head)
                there = late.contexts.arenas[group].reshape(-1, layout.block_bytes)[:, at : at + size]
                there[:] = kept[group].reshape(-1, layout.block_bytes)[:, at : at + size]

    assert isinstance(late.model, CompiledModel)
    late.model.on_layer = bring
    np.testing.assert_array_equal(late.logits({"a": TOKENS[100:130]})["a"], expected)
