"""From logits to tokens: the definition every back end reproduces.

A sample's token depends on its own logits row, settings and key only. Arithmetic is IEEE float32, one rounding per operation,
except where float64 is named; sums are of integers, so that no order of summation needs to be agreed on.

1. Logits. NaN reads as -inf, +inf as the largest float32. In this order:
   repetition   x > 0 ? x / r : x * r for tokens of prompt or output (CTRL, arXiv:1909.05858, section 4.1)
   frequency, presence   x - (frequency * count + presence) for tokens that occur `count` > 0 times in the output
   logit_bias   x + bias
   logits_mask  -inf where the bit is 0
   If no logit is above -inf now, the token is the lowest one the mask allows, or token 0.
2. temperature = 0: the largest logit, the lowest token id among equals. Otherwise, with m the largest logit:
   distance     d = (x - m) / temperature, so d <= 0
   order        candidates stand by d descending, then token id ascending
   weight       w = floor(2^40 * exp(d)), an integer; exp in float64. Where two libraries' exp differ in the last place, w may
                differ by one in 2^40, which moves about one draw in 10^11
3. Candidates are the first ones in that order. With C_j the sum of the first j weights, each filter keeps a beginning:
   top_k        the first k; `total` is the sum of their weights
   top_p        up to the first j with C_j >= top_p * total (the product in float64; Holtzman et al., arXiv:1904.09751)
   min_p        those with d >= ln(min_p) (float64, rounded to float32; Nguyen et al., arXiv:2407.01082)
4. One draw. Philox4x32-10 with key = (low, high word of seed) and counter = (output_position, sample_index, 0, 0) gives words
   r0 .. r3; u = (r0 * 2^32 + r1) / 2^64 in [0, 1). With `mass` the sum of the weights that are left, the token is the first
   candidate with C_j > floor(u * mass).

Log probabilities are the model's own: d - ln(2^-40 * sum of weights), at temperature 1, from the row as it came in (NaN and
+inf read as above; a row of -inf reads as uniform). The subtraction and ln are float64.
"""

import math

import numpy as np
import numpy.typing as npt

from tiercel.ops.philox import philox4x32
from tiercel.types import SamplingBatch, StepOutput

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_LARGEST = float(np.finfo(np.float32).max)
_ALL_BITS = np.uint32(0xFFFFFFFF)
_WORD = np.uint64(32)
_ONE = 2.0**40  # the weight of the most likely token; a sum over 2^22 tokens stays below 2^63
_NEAR = np.float32(-8.0)  # candidates within e^-8 = 3e-4 of the most likely one are looked at first


@np.errstate(over="ignore", invalid="ignore")
def sample(logits: Float32, sampling: SamplingBatch) -> StepOutput:
    """One token per row of logits [samples, vocab], and the log probabilities that were asked for. Leaves `logits` as it is."""
    uniform = _uniform(sampling) if (sampling.temperature > 0).any() else [0] * len(logits)
    rows = [_readable(row) for row in logits]
    token_ids = [_choose(_adjusted(row, sampling, i), sampling, i, uniform[i]) for i, row in enumerate(rows)]
    return _with_logprobs(rows, np.array(token_ids, dtype=np.int32), sampling.num_logprobs)


def _uniform(sampling: SamplingBatch) -> list[int]:
    """u * 2^64 per sample."""
    seed = sampling.seed.astype(np.uint64)
    zero = np.zeros_like(sampling.sample_index)
    key = np.stack([seed & np.uint64(_ALL_BITS), seed >> _WORD], axis=1).astype(np.uint32)
    counter = np.stack([sampling.output_position, sampling.sample_index, zero, zero], axis=1).astype(np.uint32)
    words = philox4x32(counter, key).astype(np.uint64)
    numbers: list[int] = (words[:, 0] << _WORD | words[:, 1]).tolist()
    return numbers


# -- logits -----------------------------------------------------------------------------------------------------------------


def _readable(row: Float32) -> Float32:
    """The row itself, or a copy without NaN and +inf."""
    if row.max() < np.inf:  # false for NaN too
        return row
    return np.nan_to_num(row, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)


def _adjusted(row: Float32, sampling: SamplingBatch, i: int) -> Float32:
    """The row after penalties, bias and mask; the row itself where there are none."""
    x = row
    prompt, output = sampling.prompt_tokens[i], sampling.output_tokens[i]
    repetition = sampling.repetition_penalty[i]
    presence, frequency = sampling.presence_penalty[i], sampling.frequency_penalty[i]
    bias = sampling.logit_bias[i] if sampling.logit_bias is not None else None
    allowed = _allowed(sampling, i, len(row))
    if repetition != 1.0:
        x = _repetition(x, [ids for ids in (prompt, output) if ids is not None], repetition)
    if output is not None and (presence != 0.0 or frequency != 0.0):
        x = _occurrence(x, output, presence, frequency)
    if bias is not None:
        x = x.copy()
        x[bias[0]] += bias[1]
    if allowed is not None:
        x = np.where(allowed, x, np.float32(-np.inf))
    return x if x is row else _readable(x)


def _repetition(row: Float32, seen: list[Int32], penalty: np.float32) -> Float32:
    x = row.copy()
    for ids in seen:
        values = row[ids]
        x[ids] = np.where(values > 0, values / penalty, values * penalty)  # a token seen twice is written twice, with one value
    return x


def _occurrence(row: Float32, output: Int32, presence: np.float32, frequency: np.float32) -> Float32:
    counts = np.bincount(output)
    tokens = np.flatnonzero(counts)
    x = row.copy()
    x[tokens] -= frequency * counts[tokens].astype(np.float32) + presence
    return x


def _allowed(sampling: SamplingBatch, i: int, vocab: int) -> npt.NDArray[np.bool_] | None:
    """The mask of a sample as [vocab] booleans; None = everything is allowed."""
    if sampling.logits_mask is None:
        return None
    words = sampling.logits_mask[i]
    if (words == _ALL_BITS).all():
        return None
    return np.unpackbits(words.astype("<u4").view(np.uint8), count=vocab, bitorder="little").view(np.bool_)


# -- choice -----------------------------------------------------------------------------------------------------------------


def _choose(x: Float32, sampling: SamplingBatch, i: int, uniform: int) -> int:
    """The token of sample i from its adjusted logits [vocab]; uniform = u * 2^64."""
    best = int(x.argmax())
    if x[best] == -np.inf:
        allowed = _allowed(sampling, i, len(x))
        return 0 if allowed is None else int(allowed.argmax())
    if sampling.temperature[i] == 0.0:
        return best
    distance = (x - x[best]) / sampling.temperature[i]
    top_k = int(sampling.top_k[i])
    if not 0 < top_k < len(x):
        return _draw(distance, sampling, i, uniform)
    ids = _first(distance, top_k)
    return int(ids[_draw(distance[ids], sampling, i, uniform)])


def _draw(distance: Float32, sampling: SamplingBatch, i: int, uniform: int) -> int:
    """Index of the candidate drawn, after top-p and min-p. Equal distances stand in order of their index."""
    weights = _weights(distance)
    mass = int(weights.sum())
    top_p, min_p = float(sampling.top_p[i]), float(sampling.min_p[i])
    if top_p < 1.0:
        mass = _reach(distance, weights, math.ceil(top_p * mass) - 1)[1]
    if min_p > 0.0:
        mass = min(mass, int(weights[distance >= np.float32(math.log(min_p))].sum()))
    return _reach(distance, weights, uniform * mass >> 64)[0]


def _weights(distance: Float32) -> Int64:
    """Integers proportional to the candidates' probabilities: floor(2^40 * exp(d))."""
    weights = np.exp(distance, dtype=np.float64)
    weights *= _ONE
    return weights.astype(np.int64)


def _reach(distance: Float32, weights: Int64, goal: int) -> tuple[int, int]:
    """The first candidate, in order, where the running total of weights exceeds `goal`; its index and that total.

    The total over all must exceed `goal`. Sorts the whole vocabulary only where the answer lies far from the most likely token.
    """
    ids = np.flatnonzero(distance > _NEAR)
    if weights[ids].sum() <= goal:
        ids = np.arange(len(distance))
    order = _in_order(distance, ids)
    running = np.cumsum(weights[order])
    place = int(np.searchsorted(running, goal, side="right"))
    return int(order[place]), int(running[place])


def _first(distance: Float32, k: int) -> Int64:
    """Indices of the first k candidates, in order."""
    least = np.partition(distance, len(distance) - k)[len(distance) - k]
    return _in_order(distance, np.flatnonzero(distance >= least))[:k]  # cut: several may equal the least


def _in_order(distance: Float32, ids: Int64) -> Int64:
    """Sorts candidates by (distance descending, index ascending)."""
    bits = np.abs(distance[ids]).view(np.uint32)  # floats of one sign compare like their bits
    keys = np.sort(bits.astype(np.uint64) << _WORD | ids.astype(np.uint64))
    return (keys & np.uint64(_ALL_BITS)).astype(np.int64)


# -- log probabilities ------------------------------------------------------------------------------------------------------


def _with_logprobs(rows: list[Float32], token_ids: Int32, num_logprobs: Int32) -> StepOutput:
    width = max(0, int(num_logprobs.max(initial=0)))
    chosen = np.full(len(rows), np.nan, dtype=np.float32)
    top_ids = np.full((len(rows), width), -1, dtype=np.int32)
    top = np.full((len(rows), width), np.nan, dtype=np.float32)
    for i in np.flatnonzero(num_logprobs >= 0):
        distance, log_mass = _log_softmax(rows[i])
        n = min(int(num_logprobs[i]), len(distance))
        chosen[i] = distance[token_ids[i]] - log_mass
        if n:
            top_ids[i, :n] = _first(distance, n)
            top[i, :n] = distance[top_ids[i, :n]] - log_mass
    return StepOutput(token_ids, chosen, top_ids, top)


def _log_softmax(row: Float32) -> tuple[Float32, np.float64]:
    """Distance of each token from the best, and ln of the sum of their exponentials: their difference is the log softmax."""
    best = row.max()
    distance = row - best if best > -np.inf else np.zeros_like(row)
    return distance, np.log(_weights(distance).sum() / _ONE)
