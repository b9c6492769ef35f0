"""Mistral (Jiang et al., arXiv:2310.06825): Llama whose layers may look back over a sliding window."""

from tiercel.models.llama import Llama


class Mistral(Llama):
    """The window stands in `ModelConfig.sliding_window` and `windowed_layers`, and makes a KV group of its own."""
