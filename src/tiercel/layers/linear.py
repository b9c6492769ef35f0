"""Matrix products over channels."""

from collections.abc import Mapping

from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops


class Linear:
    """x [rows, in] -> [rows, out]."""

    def __init__(self, weights: WeightSource, in_features: int, out_features: int) -> None:
        self._weight = weights.pack({"weight": (out_features, in_features)})

    def __call__(self, ops: Ops, x: Handle) -> Handle:
        return ops.linear(x, self._weight)


class JoinedLinear:
    """Several products of the same rows, computed as one: x [rows, in] -> [rows, out_i] each."""

    def __init__(self, weights: WeightSource, in_features: int, out_features: Mapping[str, int], *, bias: bool = False) -> None:
        """out_features: by name of the tensor pair `name.weight`, `name.bias`."""
        self._sizes = tuple(out_features.values())
        self._weight = weights.pack({f"{name}.weight": (size, in_features) for name, size in out_features.items()})
        self._bias = weights.pack({f"{name}.bias": (size,) for name, size in out_features.items()}) if bias else None

    def __call__(self, ops: Ops, x: Handle) -> tuple[Handle, ...]:
        return ops.split(ops.linear(x, self._weight, self._bias), self._sizes)
