"""Qwen3 (arXiv:2505.09388): Llama with a norm over each head of queries and keys."""

from tiercel.models.llama import Llama


class Qwen3(Llama):
    """Heads may be wider than hidden_size / num_heads."""

    qk_norm = True
