"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on queries, keys and values; the upper layers may be windowed."""

from tiercel.models.llama import Llama


class Qwen2(Llama):
    """The biases are `ModelConfig.qkv_bias`, the windows `sliding_window` and `windowed_layers`."""
