"""Rotation tables against transformers'."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tiercel.ops.rope import attention_factor, frequencies, rotation_tables
from tiercel.types import RopeConfig

YARN = {"original_max_position_embeddings": 2048, "factor": 8.0}
LLAMA3 = {"original_max_position_embeddings": 2048, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 8.0}
CASES = {
    "default": (RopeConfig(64, theta=100_000.0), {}),
    "linear": (RopeConfig(96, scaling="linear", factor=3.0), {"factor": 3.0}),
    "llama3": (RopeConfig(128, 500_000.0, scaling="llama3", factor=8.0, original_max_position=2048), LLAMA3),
    "yarn": (RopeConfig(64, 1e6, scaling="yarn", factor=8.0, original_max_position=2048), YARN),
    "yarn-untruncated": (
        RopeConfig(80, 1e6, scaling="yarn", factor=8.0, original_max_position=2048, truncate=False),
        {**YARN, "truncate": False},
    ),
    "yarn-set-by-hand": (
        RopeConfig(64, 1e4, "yarn", 8.0, 2048, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25),
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
    ),
    "yarn-short-window": (
        RopeConfig(16, 1e4, "yarn", 8.0, 7),
        {**YARN, "original_max_position_embeddings": 7},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_equal_the_oracle(name: str) -> None:
    rope, parameters = CASES[name]
    kind = "default" if rope.scaling == "none" else rope.scaling
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=1,
        head_dim=rope.head_dim,
        max_position_embeddings=20_000,
        rope_parameters={"rope_type": kind, "rope_theta": rope.theta, **parameters},
    )
    oracle = LlamaRotaryEmbedding(config)
    np.testing.assert_allclose(frequencies(rope), oracle.inv_freq.numpy(), rtol=2e-7)
    positions = 20_000
    expected = oracle(torch.zeros(1), torch.arange(positions)[None])
    for table, oracle_table in zip(rotation_tables(rope, positions), expected, strict=True):
        # A frequency may differ in its last bit, which moves an angle of 20,000 by as much as 1.2e-3.
        np.testing.assert_allclose(table, oracle_table[0, :, : rope.head_dim // 2].numpy(), atol=2e-3)
        assert (np.abs(table - oracle_table[0, :, : rope.head_dim // 2].numpy()) > 2e-7).mean() < 0.05


def test_frequency_factors_divide() -> None:
    factors = tuple(np.linspace(1, 8, 16).tolist())
    plain, divided = frequencies(RopeConfig(32)), frequencies(RopeConfig(32, frequency_factors=factors))
    np.testing.assert_allclose(divided * np.array(factors), plain, rtol=1e-6)


def test_yarn_of_factor_one_changes_nothing() -> None:
    rope = RopeConfig(32, scaling="yarn", factor=1.0, original_max_position=2048)
    assert attention_factor(rope) == 1.0
    np.testing.assert_allclose(frequencies(rope), frequencies(RopeConfig(32)), rtol=2e-7)


def test_tables_are_the_same_whatever_their_length() -> None:
    rope = RopeConfig(20, theta=1e6)
    for short, long in zip(rotation_tables(rope, 333), rotation_tables(rope, 5000), strict=True):
        np.testing.assert_array_equal(short, long[:333])
