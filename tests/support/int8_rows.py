"""Rows as int8 with one scale (native/quantise_row.h), in numpy: the same order of arithmetic, equal bits."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_TOGETHER, _LEAST = 512, 16  # values that are rotated together, at most and at least


def flushed(x: Floats) -> Floats:
    """Kernels take and make zeros for denormals."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def rotated(rows: Floats) -> Floats:
    """Each row [rows, channels] by runs, each times a Hadamard matrix. Twice is back again."""
    n = min(rows.shape[1] & -rows.shape[1], _TOGETHER)
    if n < _LEAST:
        return flushed(rows)
    return _hadamard(flushed(rows).reshape(-1, n)).reshape(rows.shape)


def quantised(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 [rows, channels] and scales [rows]."""
    turned = rotated(rows)
    most = np.abs(turned).max(axis=1)  # NaN if there is one
    scales = flushed(most / np.float32(127))
    scales[~np.isfinite(most)] = np.nan
    with np.errstate(all="ignore"):
        values = np.rint(flushed(turned * (np.float32(127) / most)[:, None]))
    return np.where((scales > 0)[:, None], values, 0).astype(np.int8), scales


def _hadamard(x: Floats) -> Floats:
    rows, n = x.shape
    h = n // 2
    while h:
        pairs = x.reshape(rows, n // (2 * h), 2, h)
        x = flushed(np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)).reshape(rows, n)
        h //= 2
    return flushed(x * (np.float32(1) / np.sqrt(np.float32(n))))
