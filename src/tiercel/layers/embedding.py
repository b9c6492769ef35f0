"""Token embedding, and the head that turns rows back into logits."""

from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops


class Embedding:
    """A vocabulary table [vocab, channels]. Models with tied embeddings use one table for both directions."""

    def __init__(self, weights: WeightSource, vocab_size: int, channels: int) -> None:
        self._table = weights.pack({"weight": (vocab_size, channels)}, table=True)

    def __call__(self, ops: Ops, token_ids: Handle) -> Handle:
        """[rows] -> [rows, channels]."""
        return ops.embedding(token_ids, self._table)

    def logits(self, ops: Ops, x: Handle) -> Handle:
        """[rows, channels] -> [rows, vocab]."""
        return ops.linear(x, self._table)
