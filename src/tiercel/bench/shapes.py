"""The shapes of known models, for what is measured without their weights."""

from typing import NamedTuple

from tiercel.types import ModelConfig, RopeConfig

SHAPES = {
    "qwen2.5-0.5b": ModelConfig(
        architecture="qwen2",
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        rms_norm_eps=1e-6,
        rope=RopeConfig(64, theta=1_000_000.0),
        max_position=32_768,
        tie_embeddings=True,
        qkv_bias=True,
    ),
    "smollm2-135m": ModelConfig(
        architecture="llama",
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rms_norm_eps=1e-5,
        rope=RopeConfig(64, theta=100_000.0),
        max_position=8192,
        tie_embeddings=True,
    ),
    # No known model: little else than attention, for prompts of tens of thousands of tokens.
    "long-128k": ModelConfig(
        architecture="llama",
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        rms_norm_eps=1e-5,
        rope=RopeConfig(64, theta=1_000_000.0),
        max_position=131_072,
        tie_embeddings=True,
    ),
}


class Product(NamedTuple):
    """A matrix [rows, columns] that a model multiplies with, so many times in a step."""

    name: str
    rows: int
    columns: int
    times: int


def products(model: ModelConfig) -> tuple[Product, ...]:
    """The four products of a layer, with those that have the same input joined, and the head."""
    heads, kv_heads = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    return (
        Product("qkv", heads + 2 * kv_heads, model.hidden_size, model.num_layers),
        Product("o", model.hidden_size, heads, model.num_layers),
        Product("gate up", 2 * model.intermediate_size, model.hidden_size, model.num_layers),
        Product("down", model.hidden_size, model.intermediate_size, model.num_layers),
        Product("head", model.vocab_size, model.hidden_size, 1),
    )
