"""What a model becomes: which instructions, what is fused, where threads wait."""

import numpy as np
import pytest

from tests.support.networks import NETWORKS, groups, weights, widened
from tiercel.models.build import build_model
from tiercel.ops.cpu import CpuOps
from tiercel.ops.cpu.plan import Op, Plan

OPS = CpuOps(1, dtype="bf16")


def plan(name: str, ops: CpuOps = OPS) -> Plan:
    network = widened(NETWORKS[name])
    layouts = [group.layout for group in groups(network.config, kv_format="bfloat16")]
    return ops.compile(build_model(network.config, weights(network), ops), layouts).program.plan


def names(plan: Plan) -> list[str]:
    return [Op(op).name for op in plan.instructions["op"]]


def test_a_layer_takes_eleven_instructions() -> None:
    """Residuals are part of products, and norms and activations leave what products read."""
    layer = ["RMS_NORM", "LINEAR", "ROPE", "ROPE", "KV_WRITE", "ATTENTION", "CONVERT", "LINEAR"]
    layer += ["RMS_NORM", "LINEAR", "SILU_MUL", "LINEAR"]
    assert names(plan("llama")) == ["EMBEDDING", *layer * 2, "SELECT_ROWS", "RMS_NORM", "LINEAR"]


def test_norms_of_heads_are_instructions_of_their_own() -> None:
    assert names(plan("qwen3"))[1:7] == ["RMS_NORM", "LINEAR", "RMS_NORM", "RMS_NORM", "ROPE", "ROPE"]


def test_threads_wait_only_where_rows_meet() -> None:
    """Row by row, a thread goes on with its own rows."""
    made = plan("llama")
    waits = [name for name, barrier in zip(names(made), made.instructions["barrier"], strict=True) if barrier]
    layer = ["LINEAR", "ROPE", "ATTENTION", "CONVERT", "LINEAR", "RMS_NORM", "LINEAR", "SILU_MUL", "LINEAR"]
    assert waits == [*layer, "RMS_NORM", *layer, "SELECT_ROWS", "RMS_NORM", "LINEAR"]


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_does_not_grow_with_layers(name: str) -> None:
    assert len(plan(name).buffers) <= 14


def test_layers_say_where_they_start() -> None:
    made = plan("qwen2-upper-window")
    assert [(start.group, start.layer) for start in made.layer_starts] == [(0, 0), (1, 0), (1, 1)]
    assert {Op(made.instructions[start.instruction]["op"]) for start in made.layer_starts} == {Op.KV_WRITE}


def test_weight_bytes_are_those_of_all_products() -> None:
    """A tied table is read once as a product; rows that are looked up do not count."""
    network = widened(NETWORKS["llama-tied-wide-heads"])
    matrices = [w.shape for w in weights(network).values() if len(w.shape) == 2]
    padded = sum(2 * (-(-rows // 16) * 16) * (-(-columns // 32) * 32) for rows, columns in matrices)
    assert plan("llama-tied-wide-heads").weight_bytes == padded


@pytest.mark.parametrize(("dtype", "formats"), [("bf16", {0, 1}), ("int8", {0, 9}), ("int4", {0, 2, 4})])
def test_weights_are_packed_as_told(dtype: str, formats: set[int]) -> None:
    """4-bit weights come with an 8-bit table."""
    made = plan("llama-tied-wide-heads", CpuOps(1, dtype=dtype))
    assert {matrix.format for packed in made.constants for matrix in packed.matrices} == formats


def test_foreign_handles_are_named() -> None:
    with pytest.raises(TypeError, match="packed weight of the native back end"):
        OPS.linear(np.zeros((1, 32), np.float32), np.zeros((8, 32), np.float32))
