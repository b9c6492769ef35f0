"""A decoder layer."""

from tiercel.layers.attention import Attention, KVPlace
from tiercel.layers.mlp import MLP
from tiercel.layers.norm import RMSNorm
from tiercel.layers.rotary import Rotary
from tiercel.layers.weights import WeightSource
from tiercel.ops import Handle, Ops, StepHandles
from tiercel.types import ModelConfig


class DecoderLayer:
    """Attention, then MLP, each on normed rows and added to them."""

    def __init__(
        self, weights: WeightSource, config: ModelConfig, rotary: Rotary, place: KVPlace, *, qk_norm: bool = False
    ) -> None:
        size, eps = config.hidden_size, config.rms_norm_eps
        self._attention_norm = RMSNorm(weights.at("input_layernorm"), size, eps)
        self._attention = Attention(weights.at("self_attn"), config, rotary, place, qk_norm=qk_norm)
        self._mlp_norm = RMSNorm(weights.at("post_attention_layernorm"), size, eps)
        self._mlp = MLP(weights.at("mlp"), size, config.intermediate_size)

    def __call__(self, ops: Ops, x: Handle, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        x = ops.add(x, self._attention(ops, self._attention_norm(ops, x), inputs, kv))
        return ops.add(x, self._mlp(ops, self._mlp_norm(ops, x)))
