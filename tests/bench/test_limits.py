"""What the machine allows, counted by hand for a small network."""

from math import isfinite

from tiercel.bench.limits import MachineLimits
from tiercel.types import ModelConfig, RopeConfig

MODEL = ModelConfig(
    architecture="llama",
    vocab_size=100,
    hidden_size=8,
    intermediate_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope=RopeConfig(head_dim=2),
    max_position=64,
    tie_embeddings=True,
)
# q and o: 8 x 8 each, k and v: 8 x 4 each, gate, up and down: 8 x 16 each; two layers
LAYERS = 2 * (2 * 64 + 2 * 32 + 3 * 128)


def test_a_prompt_costs_arithmetic() -> None:
    attention = 2 * 4 * 2 * 2 * 2 * (1 + 2 + 3)  # layers, heads, dims, q k and p v, multiply and add, keys seen by 3 tokens
    assert MachineLimits(flops=1.0, bandwidth=1.0).first_token(MODEL, 3) == attention + 2 * 3 * LAYERS + 2 * 100 * 8


def test_a_token_costs_reading() -> None:
    kv = 2 * 2 * 2 * 2 * 10  # layers, k and v, heads, dims, context
    assert MachineLimits(flops=1.0, bandwidth=2.0).per_token(MODEL, 10) == 4 * (LAYERS + 100 * 8 + kv) / 2


def test_this_machine_computes() -> None:
    limits = MachineLimits.measure(runs=1)
    assert 1e8 < limits.flops < 1e15
    assert 1e8 < limits.bandwidth < 1e13
    assert isfinite(limits.first_token(MODEL, 3))
