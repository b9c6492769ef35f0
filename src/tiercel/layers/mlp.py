"""The feed-forward half of a decoder layer."""

from tiercel.layers.linear import JoinedLinear, Linear
from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops


class MLP:
    """down(silu(gate(x)) * up(x)) (SwiGLU: Shazeer, arXiv:2002.05202)."""

    def __init__(self, weights: WeightSource, hidden_size: int, intermediate_size: int) -> None:
        self._gate_up = JoinedLinear(weights, hidden_size, {"gate_proj": intermediate_size, "up_proj": intermediate_size})
        self._down = Linear(weights.at("down_proj"), intermediate_size, hidden_size)

    def __call__(self, ops: Ops, x: Handle) -> Handle:
        gate, up = self._gate_up(ops, x)
        return self._down(ops, ops.silu_mul(gate, up))
