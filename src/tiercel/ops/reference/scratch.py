"""Working memory."""

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Float32 memory that is used again and again: touching fresh pages costs as much as a small product.

    A tensor is good until the next `take` of the same purpose.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, purpose: str, *shape: int) -> Tensor:
        """Uninitialised [shape]."""
        size = prod(shape)
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[purpose] = torch.empty(size)
        return buffer[:size].view(shape)
