"""Attention over a paged context, by plan.

A row's result has the same bits whatever stands beside it. A score is one dot product over head_dim. The softmax kernel keeps
one partial sum per vector lane, and a hidden key adds exactly zero to its lane, so that whole tiles of hidden keys may stand
before and after those a row sees. Products with the values are summed within a key tile, and the tiles in order. Queries are
scaled beforehand, since the factor of a library's own product is applied at different places on one thread and on two.
"""

import torch
from torch import Tensor

from tiercel.ops.reference.arena import KVArena, Runs
from tiercel.ops.reference.plan import TILE, Bundle, Plan, RowTile, cut
from tiercel.ops.reference.scratch import Scratch

_HIDDEN = float("-inf")


def attention(
    q: Tensor, arena: KVArena, layer: int, plan: Plan, scratch: Scratch, *, scale: float, mask: Tensor | None, return_lse: bool
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v for q [rows, heads * head_dim], and the log of the softmax denominators, [rows, heads].

    mask: bool [rows, positions], True = hidden. The second result is empty unless asked for.
    """
    heads = q.shape[1] // arena.layout.head_dim
    vectors = (q * scale).view(len(q) * heads, arena.layout.head_dim)
    out, lse = torch.empty_like(vectors), vectors.new_empty(len(vectors) if return_lse else 0)
    for bundle in plan.bundles:
        keys, values = _gather(arena, layer, plan.run_tokens, bundle, scratch)
        for rows in bundle.row_tiles:
            scores = _scores(vectors, keys[rows.kv_heads], bundle, rows, scratch)
            if mask is not None:
                _by_request(scores, bundle).masked_fill_(_part_of(mask, bundle, rows), _HIDDEN)
            if return_lse or rows.blind or mask is not None:
                weights, denominators = _softmax_of_any(scores)
                if return_lse:
                    lse.index_copy_(0, rows.vectors, denominators.view(-1))
            else:
                weights = torch.softmax(scores, dim=-1, out=scores)
            out.index_copy_(0, rows.vectors, _weighted_sums(weights, values[rows.kv_heads, cut(rows.first, rows.last)]))
    return out.view(q.shape), lse.view(-1, heads)


def _gather(arena: KVArena, layer: int, run_tokens: int, bundle: Bundle, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Keys and values of a bundle, each [requests * kv_heads, keys, head_dim]."""
    layout = arena.layout
    runs = bundle.runs + Runs(layout, run_tokens).of_layer(layer)
    gathered = scratch.take("context", len(runs), run_tokens * layout.head_dim)
    arena.gather(runs, run_tokens, gathered)
    keys, values = gathered.view(2, bundle.requests * layout.num_kv_heads, -1, layout.head_dim)
    for tile, mask in bundle.holes:  # memory that was never written may hold anything, nan included
        _by_request(values, bundle)[:, :, cut(tile)].masked_fill_(mask, 0)
    return keys, values


def _scores(vectors: Tensor, keys: Tensor, bundle: Bundle, rows: RowTile, scratch: Scratch) -> Tensor:
    """q k^T of a row tile, [requests * kv_heads, M, keys from rows.first to rows.last]; -inf where hidden."""
    q = vectors.index_select(0, rows.vectors).view(len(keys), -1, keys.shape[2])
    seen = keys[:, cut(rows.first, rows.last)]
    scores = scratch.take("scores", len(keys), q.shape[1], seen.shape[1])
    torch.bmm(q, seen.transpose(1, 2), out=scores)
    for tile, mask in rows.hidden:
        _by_request(scores, bundle)[..., cut(tile)].masked_fill_(mask, _HIDDEN)
    return scores


def _softmax_of_any(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax in place, and the logs of the denominators. A row whose keys are all hidden gives zeros and -inf."""
    largest = scores.amax(dim=-1)
    blind = largest == _HIDDEN
    weights = torch.softmax(scores, dim=-1, out=scores).masked_fill_(blind.unsqueeze(-1), 0)
    # The largest weight is 1 / denominator, which spares a second sum in some other order.
    return weights, torch.where(blind, _HIDDEN, largest - weights.amax(dim=-1).log())


def _weighted_sums(weights: Tensor, values: Tensor) -> Tensor:
    """weights [batch, M, keys] times values [batch, keys, head_dim] -> [batch * M, head_dim]."""
    sums = torch.bmm(weights[..., :TILE], values[:, :TILE])
    for start in range(TILE, weights.shape[2], TILE):
        sums.baddbmm_(weights[..., start : start + TILE], values[:, start : start + TILE])
    return sums.view(-1, values.shape[2])


def _part_of(mask: Tensor, bundle: Bundle, rows: RowTile) -> Tensor:
    """A row tile's part of a mask [rows, positions], [requests, 1, M, keys]. Positions past the mask are hidden anyway."""
    positions = bundle.positions[:, cut(rows.first, rows.last)].clamp(max=mask.shape[1] - 1)
    return mask[rows.rows.unsqueeze(2), positions.unsqueeze(1)].unsqueeze(1)


def _by_request(x: Tensor, bundle: Bundle) -> Tensor:
    """[requests * kv_heads, ...] as [requests, kv_heads, ...]."""
    return x.view(bundle.requests, -1, *x.shape[1:])
