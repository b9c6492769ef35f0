"""Root mean square norm (Zhang and Sennrich, arXiv:1910.07467)."""

from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops


class RMSNorm:
    """Norms each run of `size` channels: a whole row, or every head of it."""

    def __init__(self, weights: WeightSource, size: int, eps: float) -> None:
        self._weight = weights.pack({"weight": (size,)})
        self._eps = eps

    def __call__(self, ops: Ops, x: Handle) -> Handle:
        return ops.rms_norm(x, self._weight, self._eps)
