"""Norms, activations and rotation: operations on single rows."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm (arXiv:1910.07467) of each run of len(weight) channels of x [rows, channels]."""
    runs = x.reshape(len(x), x.shape[1] // len(weight), len(weight))
    return torch.nn.functional.rms_norm(runs, (len(weight),), weight, eps).view(x.shape)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """gate / (1 + exp(-gate)) * up.

    Written out, since torch.silu rounds differently where a thread's share of the elements is no multiple of the vector width;
    torch.exp does not.
    """
    y = torch.neg(gate).exp_().add_(1)
    return torch.div(gate, y, out=y).mul_(up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turns pairs of channels of every head of x [rows, heads * head_dim] by the angles of its row.

    cos, sin: [rows, head_dim / 2]. A pair is (i, i + head_dim / 2), or (2i, 2i + 1) if interleaved.
    """
    pairs = (-1, cos.shape[1], 2) if interleaved else (-1, 2, cos.shape[1])
    heads = x.reshape(len(x), *pairs)
    first, second = heads.unbind(-1 if interleaved else -2)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(turned, dim=-1 if interleaved else -2).view(x.shape)
