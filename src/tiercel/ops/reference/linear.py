"""Weights and matrix products.

torch.mm alone gives a row other bits when other rows stand beside it: its kernels, and how they cut the channels that they sum,
change with the shape and the number of threads. Three measures make a row's bits its own. Channels come in pieces that are
added in order, too short to be cut further (with more than two threads 384 were, up to 352 never). A matrix lies in memory as
[in, out], where all kernels sum one channel after the other. And there are never fewer than two rows, since a single one goes
to a kernel of its own. `tests/ops/test_row_independence.py` holds this to account.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_PIECE = 320  # channels summed at once


def pack(parts: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """Vectors end to end, [out]; matrices [out_i, in] side by side, [in, out]."""
    if parts[0].ndim == 1:
        return torch.from_numpy(np.concatenate(parts))
    joined = np.empty((parts[0].shape[1], sum(map(len, parts))), np.float32)
    np.concatenate(parts, out=joined.T)
    return torch.from_numpy(joined)


def embedding(token_ids: Tensor, table: Tensor) -> Tensor:
    """Columns of a packed table [channels, vocab] -> [rows, channels]."""
    return table.index_select(1, token_ids).t().contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [rows, in] times a packed matrix [in, out], plus bias [out] -> [rows, out]."""
    rows = x if len(x) != 1 else x.repeat(2, 1)
    y = torch.mm(rows[:, :_PIECE], weight[:_PIECE])
    for start in range(_PIECE, len(weight), _PIECE):
        y.addmm_(rows[:, start : start + _PIECE], weight[start : start + _PIECE])
    if bias is not None:
        y += bias
    return y[: len(x)]
