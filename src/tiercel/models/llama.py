"""Llama (Touvron et al., arXiv:2302.13971); SmolLM2 is one."""

from tiercel.layers import DecoderLayer, Embedding, KVPlace, RMSNorm, Rotary, WeightSource
from tiercel.models.groups import kv_groups
from tiercel.ops import Handle, Ops, StepHandles
from tiercel.types import ModelConfig


class Llama:
    """Embedding, decoder layers, norm, head. Tensors bear their Hugging Face names."""

    qk_norm = False  # whether each head of queries and keys is normed

    def __init__(self, config: ModelConfig, weights: WeightSource, ops: Ops) -> None:
        body = weights.at("model")
        rotary = Rotary(ops, config.rope, config.max_position)
        places = {
            layer: KVPlace(group, layer, spec.window) for group, spec in enumerate(kv_groups(config)) for layer in spec.layers
        }
        self._embedding = Embedding(body.at("embed_tokens"), config.vocab_size, config.hidden_size)
        self._layers = [
            DecoderLayer(body.at(f"layers.{layer}"), config, rotary, places[layer], qk_norm=self.qk_norm)
            for layer in range(config.num_layers)
        ]
        self._norm = RMSNorm(body.at("norm"), config.hidden_size, config.rms_norm_eps)
        self._head = (
            self._embedding
            if config.tie_embeddings
            else Embedding(weights.at("lm_head"), config.vocab_size, config.hidden_size)
        )

    def __call__(self, ops: Ops, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        x = self._embedding(ops, inputs.token_ids)
        for layer in self._layers:
            x = layer(ops, x, inputs, kv)
        x = ops.select_rows(x, inputs.sample_rows)
        return self._head.logits(ops, self._norm(ops, x))
