"""The attention half of a decoder layer."""

from dataclasses import dataclass

from tiercel.layers.linear import JoinedLinear, Linear
from tiercel.layers.norm import RMSNorm
from tiercel.layers.rotary import Rotary
from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops, StepHandles
from tiercel.types import ModelConfig


@dataclass(frozen=True)
class KVPlace:
    """Where a layer keeps its KV. group: its KV group; layer: its number in the model; window: the group's."""

    group: int
    layer: int
    window: int | None


class Attention:
    """Causal self-attention over the paged KV of each row's request; heads may share kv heads (GQA, arXiv:2305.13245)."""

    def __init__(
        self, weights: WeightSource, config: ModelConfig, rotary: Rotary, place: KVPlace, *, qk_norm: bool = False
    ) -> None:
        """qk_norm: norm each head of queries and keys before they are rotated."""
        q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._place, self._rotary = place, rotary
        self._scale = config.head_dim**-0.5
        self._qkv = JoinedLinear(weights, config.hidden_size, {"q_proj": q, "k_proj": kv, "v_proj": kv}, bias=config.qkv_bias)
        self._output = Linear(weights.at("o_proj"), q, config.hidden_size)
        self._q_norm = RMSNorm(weights.at("q_norm"), config.head_dim, config.rms_norm_eps) if qk_norm else None
        self._k_norm = RMSNorm(weights.at("k_norm"), config.head_dim, config.rms_norm_eps) if qk_norm else None

    def __call__(self, ops: Ops, x: Handle, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        q, k, v = self._qkv(ops, x)
        if self._q_norm is not None and self._k_norm is not None:
            q, k = self._q_norm(ops, q), self._k_norm(ops, k)
        q, k = self._rotary(ops, q, inputs.positions), self._rotary(ops, k, inputs.positions)
        arena, batch, layer = kv[self._place.group], inputs.batches[self._place.group], self._place.layer
        ops.kv_write(k, v, arena, layer, batch)
        return self._output(ops, ops.attention(q, arena, layer, batch, scale=self._scale, window=self._place.window))
