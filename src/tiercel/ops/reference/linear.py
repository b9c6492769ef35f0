"""Weights and matrix products.

torch.mm alone gives a row other bits when other rows stand beside it: kernels and their split of K change with the shape. Two
measures make a row's bits its own: rows are padded to a multiple of 16, and K is cut into pieces of at most 384 that are added
in order. `tests/ops/test_row_independence.py` holds this to account.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ROW_MULTIPLE = 16
K_PIECE = 384
_TABLE_RATIO = 8  # a matrix with so many more rows than columns is a vocabulary table


def pack(parts: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """Vectors end to end as [out]; matrices [out_i, in] on top of each other as [out, in].

    A vocabulary table lies row by row, since `embedding` picks rows of it. Other matrices lie column by column, which makes
    products with few rows up to twice as fast.
    """
    if parts[0].ndim == 1:
        return torch.from_numpy(np.concatenate(parts))
    out, channels = sum(len(part) for part in parts), parts[0].shape[1]
    if out >= _TABLE_RATIO * channels:
        return torch.from_numpy(np.concatenate(parts))
    columns = np.empty((channels, out), np.float32)
    np.concatenate(parts, out=columns.T)
    return torch.from_numpy(columns).t()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [rows, in] times weight [out, in] transposed, plus bias [out] -> [rows, out]."""
    rows, channels = x.shape
    if rows % ROW_MULTIPLE:
        x = torch.nn.functional.pad(x, (0, 0, 0, -rows % ROW_MULTIPLE))
    y = torch.mm(x[:, :K_PIECE], weight.t()[:K_PIECE])
    for start in range(K_PIECE, channels, K_PIECE):
        y.addmm_(x[:, start : start + K_PIECE], weight.t()[start : start + K_PIECE])
    if bias is not None:
        y += bias
    return y[:rows]
