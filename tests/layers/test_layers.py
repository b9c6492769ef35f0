"""Layers: what they ask of ops, seen on the recorder, and what comes out on the reference back end."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from tests.support.networks import NETWORKS, weight
from tiercel.layers import MLP, Attention, Embedding, JoinedLinear, KVPlace, RMSNorm, Rotary
from tiercel.ops import Handle, Ops, Recorder, StepHandles, load_ops

OPS = load_ops()


class Tensors:
    """A weight source of random tensors, made as they are asked for; `made` is by full name."""

    def __init__(self, ops: Ops, prefix: str = "", made: dict[str, np.ndarray] | None = None) -> None:
        self._ops, self._prefix = ops, prefix
        self.made: dict[str, np.ndarray] = {} if made is None else made

    def at(self, prefix: str) -> "Tensors":
        return Tensors(self._ops, f"{self._prefix}{prefix}.", self.made)

    def pack(self, shapes: Mapping[str, tuple[int, ...]], *, table: bool = False) -> Handle:
        rng = np.random.default_rng(len(self.made))
        parts = {self._prefix + name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        self.made.update(parts)
        return self._ops.pack(*map(weight, parts.values()))


def rows(count: int, channels: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, channels)).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
def test_joined_linear_equals_its_parts(bias: bool) -> None:
    tensors, x = Tensors(OPS), rows(5, 12)
    parts = JoinedLinear(tensors, 12, {"a": 7, "b": 3}, bias=bias)(OPS, Handle(torch.from_numpy(x)))
    assert set(tensors.made) == {"a.weight", "b.weight"} | ({"a.bias", "b.bias"} if bias else set())
    for name, part in zip("ab", parts, strict=True):
        expected = x @ tensors.made[f"{name}.weight"].T + tensors.made.get(f"{name}.bias", 0)
        np.testing.assert_allclose(np.asarray(part), expected, atol=1e-5)


def test_mlp_is_swiglu() -> None:
    tensors, x = Tensors(OPS), rows(5, 12)
    result = MLP(tensors.at("mlp"), 12, 20)(OPS, Handle(torch.from_numpy(x)))
    gate, up = (x @ tensors.made[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    expected = (gate / (1 + np.exp(-gate)) * up) @ tensors.made["mlp.down_proj.weight"].T
    np.testing.assert_allclose(np.asarray(result), expected, atol=1e-3)


def test_embedding_serves_both_directions() -> None:
    tensors, ids = Tensors(OPS), torch.tensor([3, 1])
    embedding = Embedding(tensors, 5, 8)
    x = embedding(OPS, Handle(ids))
    np.testing.assert_array_equal(np.asarray(x), tensors.made["weight"][[3, 1]])
    np.testing.assert_allclose(np.asarray(embedding.logits(OPS, x)), np.asarray(x) @ tensors.made["weight"].T, atol=1e-5)


def test_norm_passes_eps_on() -> None:
    tensors, x = Tensors(OPS), rows(2, 8)
    result = RMSNorm(tensors, 8, 0.5)(OPS, Handle(torch.from_numpy(x)))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5) * tensors.made["weight"]
    np.testing.assert_allclose(np.asarray(result), expected, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_writes_before_it_reads_in_its_own_group(qk_norm: bool) -> None:
    recorder, config = Recorder(), NETWORKS["qwen3"].config
    rotary = Rotary(recorder, config.rope, 64)
    layer = Attention(Tensors(recorder), config, rotary, KVPlace(group=1, layer=6, window=9), qk_norm=qk_norm)

    def forward(ops: Ops, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        return layer(ops, inputs.token_ids, inputs, kv)

    program = recorder.record(forward, groups=2)
    norms = ["rms_norm", "rms_norm"] if qk_norm else []
    assert [call.op for call in program.calls] == [
        "linear", "split", *norms, "rope", "rope", "kv_write", "attention", "linear"
    ]  # fmt: skip
    write, attention = program.calls[-3], program.calls[-2]
    assert write.arguments[2:] == (program.kv[1], 6, program.inputs.batches[1])
    assert attention.arguments[1:] == (program.kv[1], 6, program.inputs.batches[1])
    assert attention.options == {"scale": 24**-0.5, "window": 9}
