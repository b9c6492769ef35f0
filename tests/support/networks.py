"""Tiny random networks of every architecture: transformers' model, and the same weights and settings in our terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
import transformers

from tests.support.steps import PagedContexts
from tiercel.models.build import build_model
from tiercel.models.groups import kv_groups
from tiercel.ops import Forward, Ops
from tiercel.types import FORMATS, KVFormat, KVGroup, KVLayout, ModelConfig, RopeConfig, Weight

VOCAB = 101
MAX_POSITION = 512


@dataclass(frozen=True)
class Network:
    """settings: of ModelConfig and RopeConfig; extras: of the transformers configuration, where it has other names."""

    name: str
    architecture: str
    heads: tuple[int, int, int] = (4, 2, 16)  # query heads, kv heads, head_dim
    layers: int = 2
    rope: RopeConfig = field(default_factory=lambda: RopeConfig(16))
    tie_embeddings: bool = False
    window: int | None = None
    windowed_layers: tuple[int, ...] = ()
    hidden: int = 64
    extras: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            architecture=self.architecture,
            vocab_size=VOCAB,
            hidden_size=self.hidden,
            intermediate_size=96,
            num_layers=self.layers,
            num_heads=self.heads[0],
            num_kv_heads=self.heads[1],
            head_dim=self.heads[2],
            rms_norm_eps=1e-5,
            rope=self.rope,
            max_position=MAX_POSITION,
            tie_embeddings=self.tie_embeddings,
            qkv_bias=self.architecture == "qwen2",
            sliding_window=self.window,
            windowed_layers=self.windowed_layers,
        )


NETWORKS = {
    network.name: network
    for network in (
        Network("llama", "llama"),
        Network("llama-tied-wide-heads", "llama", heads=(4, 4, 40), rope=RopeConfig(40, theta=500.0), tie_embeddings=True),
        Network("llama-linear", "llama", rope=RopeConfig(16, scaling="linear", factor=4.0)),
        Network("llama-llama3", "llama", rope=RopeConfig(16, scaling="llama3", factor=8.0, original_max_position=128)),
        Network("llama-yarn", "llama", rope=RopeConfig(16, scaling="yarn", factor=4.0, original_max_position=128)),
        Network(
            "llama-yarn-untruncated",
            "llama",
            rope=RopeConfig(
                16,
                scaling="yarn",
                factor=4.0,
                original_max_position=128,
                attention_factor=1.5,
                beta_fast=8.0,
                beta_slow=2.0,
                truncate=False,
            ),
        ),
        Network("mistral", "mistral", heads=(6, 1, 16), hidden=96),
        Network("mistral-window", "mistral", window=20, windowed_layers=(0, 1)),
        Network("qwen2", "qwen2", hidden=80, tie_embeddings=True),
        Network("qwen2-upper-window", "qwen2", layers=3, window=20, windowed_layers=(1, 2)),
        Network("qwen3", "qwen3", heads=(4, 2, 24), rope=RopeConfig(24, theta=1_000_000.0)),
        Network("qwen3-window", "qwen3", layers=3, window=20, windowed_layers=(2,), tie_embeddings=True),
    )
}


@cache
def oracle(network: Network) -> transformers.PreTrainedModel:
    """transformers' model. Weights are so large that attention is far from uniform, embeddings so small that eps matters."""
    config = transformers.AutoConfig.for_model(
        network.architecture,
        vocab_size=VOCAB,
        hidden_size=network.hidden,
        intermediate_size=96,
        num_hidden_layers=network.layers,
        num_attention_heads=network.heads[0],
        num_key_value_heads=network.heads[1],
        head_dim=network.heads[2],
        rms_norm_eps=1e-5,
        max_position_embeddings=MAX_POSITION,
        tie_word_embeddings=network.tie_embeddings,
        rope_parameters=_rope_parameters(network.rope),
        attn_implementation="eager",
        **_windows(network),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    parameter.uniform_(1.0, 3.0)
                elif name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(std=0.01 if "embed" in name else 0.3)
    return model


def _rope_parameters(rope: RopeConfig) -> dict[str, object]:
    common = {"rope_theta": rope.theta, "factor": rope.factor}
    window = {"original_max_position_embeddings": rope.original_max_position}
    if rope.scaling == "linear":
        return {"rope_type": "linear", **common}
    if rope.scaling == "llama3":
        bounds = {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
        return {"rope_type": "llama3", **common, **window, **bounds}
    if rope.scaling == "yarn":
        ramp = {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "truncate": rope.truncate}
        return {"rope_type": "yarn", **common, **window, **ramp, "attention_factor": rope.attention_factor}
    return {"rope_type": "default", "rope_theta": rope.theta}


def _windows(network: Network) -> dict[str, object]:
    if network.architecture == "mistral":
        return {"sliding_window": network.window}
    if network.window is None:
        return {}
    kinds = ["sliding_attention" if i in network.windowed_layers else "full_attention" for i in range(network.layers)]
    return {"use_sliding_window": True, "sliding_window": network.window, "layer_types": kinds}


@cache
def weights(network: Network) -> dict[str, Weight]:
    """The oracle's weights, as a checkpoint would hold them."""
    tensors = {name: values.numpy() for name, values in oracle(network).state_dict().items()}
    if network.tie_embeddings:
        del tensors["lm_head.weight"]
    return {name: weight(values) for name, values in tensors.items()}


def weight(values: np.ndarray) -> Weight:
    """An array as a float32 weight."""
    values = np.ascontiguousarray(values, np.float32)
    return Weight(values.reshape(-1).view(np.uint8), FORMATS["F32"], values.shape)


@cache
def expected_logits(network: Network, token_ids: tuple[int, ...]) -> np.ndarray:
    """[tokens, vocab] of one sequence, by transformers."""
    with torch.inference_mode():
        return oracle(network)(torch.tensor([token_ids])).logits[0].numpy()


def groups(config: ModelConfig, block_tokens: int = 64, kv_format: KVFormat = "float32") -> list[KVGroup]:
    """The KV groups of a configuration with their layouts."""
    return [
        KVGroup(KVLayout(spec.layers, config.num_kv_heads, config.head_dim, kv_format, block_tokens), spec.window)
        for spec in kv_groups(config)
    ]


def widened(network: Network) -> Network:
    """The network with heads of 32 channels, the least that native kernels take."""
    queries, kv, _ = network.heads
    return replace(network, heads=(queries, kv, 32), rope=replace(network.rope, head_dim=32))


class Run:
    """A model on a back end with contexts of its own."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Weight],
        ops: Ops,
        *,
        seed: int = 0,
        kv_format: KVFormat = "float32",
    ) -> None:
        self.model: Forward = build_model(config, weights, ops)
        self.start(groups(config, kv_format=kv_format), ops, seed)

    def start(self, groups: Sequence[KVGroup], ops: Ops, seed: int = 0) -> None:
        """Forgets all contexts."""
        self.ops = ops
        self.contexts = PagedContexts(groups, seed=seed)
        self.kv = tuple(ops.bind_kv(arena, group.layout) for arena, group in zip(self.contexts.arenas, groups, strict=True))

    def logits(self, chunks: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """Logits of all rows of a step, [tokens, vocab] by request."""
        step = self.contexts.step(chunks, sample="all")
        values = np.asarray(self.model(self.ops, self.ops.begin(step), self.kv))
        return dict(zip(chunks, np.split(values, step.groups[0].query_start[1:-1]), strict=True))
