"""Next-token distributions held against each other, row by row, from logits.

A row is a whole vocabulary, so rows are taken a few at a time: what is made of them then stays in a cache. Exponentials and
sums over a vocabulary are float32, added pairwise; logarithms and what is made of them are float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
_CACHED = 1 << 17  # values that are worked on at once


class Compared(NamedTuple):
    """One entry per row. same: whether the likeliest token is the same; divergences: KL(truth, found) in nats; surprises: -log
    probability that `found` gives to the text's own next token."""

    same: npt.NDArray[np.bool_]
    divergences: Float64
    surprises: Float64


class Truth:
    """Distributions that others are held against. A new chunk takes the old one's place in memory."""

    def __init__(self, rows: int, vocab: int) -> None:
        self._logits = np.empty((rows, vocab), np.float32)
        self._probabilities = np.empty((rows, vocab), np.float32)
        self._norms = np.empty(rows)
        self._likeliest = np.empty(rows, np.int64)

    def become(self, logits: Float32) -> None:
        """logits: [rows, vocab], copied. Raises ValueError for more rows than there is room for."""
        count = len(logits)
        self._logits[:count] = logits
        self._likeliest[:count] = logits.argmax(axis=1)
        for rows in _parts(logits):
            exps = self._probabilities[rows]
            self._norms[rows], sums = _exponentials(self._logits[rows], exps)
            exps /= sums[:, None]

    def compare(self, found: Float32, following: npt.NDArray[np.int32]) -> Compared:
        """found: logits [rows, vocab] of the same rows; following: the text's next tokens, [rows].

        With p, q the distributions of logits a, b and their norms A = log sum exp a, B: KL = B - A - sum p (b - a). That sum is
        of small differences, so that float32 suffices for it.
        """
        count = len(found)
        divergences, norms = np.empty(count), np.empty(count)
        scratch = np.empty_like(found[: _rows_at_once(found)])
        for rows in _parts(found):
            work = scratch[: rows.stop - rows.start]
            np.subtract(found[rows], self._logits[rows], out=work)
            moved = np.vecdot(self._probabilities[rows], work)
            norms[rows], _ = _exponentials(found[rows], work)
            divergences[rows] = norms[rows] - self._norms[rows] - moved
        same = found.argmax(axis=1) == self._likeliest[:count]
        return Compared(same, divergences, norms - found[np.arange(count), following])


def _exponentials(logits: Float32, out: Float32) -> tuple[Float64, Float32]:
    """Leaves exp(logits - their largest) in `out`; the norms, log sum exp, and the sums in `out`, one per row."""
    largest = logits.max(axis=1)
    np.subtract(logits, largest[:, None], out=out)
    np.exp(out, out=out)
    sums: Float32 = out.sum(axis=1)
    return largest + np.log(sums.astype(np.float64)), sums


def _rows_at_once(logits: Float32) -> int:
    return max(1, _CACHED // int(logits.shape[1]))


def _parts(logits: Float32) -> Iterator[slice]:
    step = _rows_at_once(logits)
    for start in range(0, len(logits), step):
        yield slice(start, min(start + step, len(logits)))
