"""The metadata of a GGUF file as a `ModelConfig`, and its tensors under their Hugging Face names and in their row order.

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is done to a model on its way into a GGUF file, and
undone here: llama.cpp's convert_hf_to_gguf.py.
"""

import math
from collections.abc import Mapping

import numpy as np

from tiercel.models import limits
from tiercel.models.fields import Fields
from tiercel.models.gguf import GGUFFile
from tiercel.models.weights import StoredWeights
from tiercel.types import CheckpointError, ModelConfig, RopeConfig, Weight

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # as files name them; Mistral models are stored as "llama"
_ROPE_FACTORS = "rope_freqs.weight"  # a setting in a tensor's clothes

_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Tokens that end a turn or a text whatever the file's single eos_token_id says, as in llama.cpp's vocabulary loader.
_END_TOKENS = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>"})


def read_config(file: GGUFFile) -> ModelConfig:
    """The network's settings. Raises CheckpointError naming file and key."""
    general = Fields(file.path.name, file.metadata)
    architecture = general.text("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise general.error("general.architecture", f"{architecture[:80]!r} is not supported; supported are {known}")
    if general.integer("split.count", 0, 1 << 16, 0) > 1:
        raise general.error("split.count", "is above 1: join the parts first (llama-gguf-split --merge)")
    fields = Fields(f"{file.path.name}: {architecture}", _below(file.metadata, architecture))
    if "expert_count" in fields and fields.integer("expert_count", 0, 1 << 20) > 0:
        raise fields.error("expert_count", "is above 0: mixtures of experts are not supported")

    vocab_size = _vocab_size(file, fields)
    hidden_size = fields.integer("embedding_length", 1, limits.CHANNELS)
    num_heads = fields.integer("attention.head_count", 1, limits.HEADS)
    num_kv_heads = fields.integer("attention.head_count_kv", 1, num_heads, num_heads)
    if num_heads % num_kv_heads:
        raise fields.error("attention.head_count_kv", f"{num_kv_heads} must divide attention.head_count {num_heads}")
    head_dim = _head_dim(fields, hidden_size // num_heads)
    num_layers = fields.integer("block_count", 1, limits.LAYERS)
    max_position = fields.integer("context_length", 1, limits.POSITIONS)
    window = fields.integer("attention.sliding_window", 0, limits.POSITIONS, 0) or None
    mistral = architecture == "llama" and window is not None  # Llama itself has no windows
    eos, bos = end_tokens(general, vocab_size), general.token_ids("tokenizer.ggml.bos_token_id", vocab_size)
    return ModelConfig(
        architecture="mistral" if mistral else architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("feed_forward_length", 1, limits.CHANNELS),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope=_rope(file, fields, head_dim, max_position),
        max_position=max_position,
        tie_embeddings="output.weight" not in file.tensors,
        qkv_bias=architecture == "qwen2",
        sliding_window=window,
        windowed_layers=tuple(range(num_layers)) if window else (),
        eos_token_ids=eos,
        bos_token_id=next(iter(bos), None),
    )


def read_weights(file: GGUFFile, config: ModelConfig) -> StoredWeights:
    """The tensors under their Hugging Face names. Names that have none there stay as they are."""
    stored = {name: tensor for name, tensor in file.tensors.items() if name != _ROPE_FACTORS}
    tensors = {hugging_face_name(name): tensor for name, tensor in stored.items()}
    if len(tensors) != len(stored):
        raise CheckpointError(f"{file.path}: two tensors have the same name in Hugging Face terms")
    if file.metadata["general.architecture"] != "llama":
        return StoredWeights(str(file.path), tensors)

    def finish(name: str, weight: Weight) -> Weight:
        if ".self_attn.q_proj." in name:
            return split_halves(weight, config.num_heads)
        if ".self_attn.k_proj." in name:
            return split_halves(weight, config.num_kv_heads)
        return weight

    return StoredWeights(str(file.path), tensors, finish)


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; unknown names as they are."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.{kind}"
    prefix, _, part = stem.rpartition(".")
    if part in _LAYER_NAMES and prefix.startswith("blk."):
        return f"model.layers.{prefix[4:]}.{_LAYER_NAMES[part]}.{kind}"
    return name


def split_halves(weight: Weight, heads: int) -> Weight:
    """Undoes the converter's reordering of query and key rows for RoPE.

    Files of the llama architecture keep rotated pairs side by side: row 2 i + j of a head is row j * head_dim / 2 + i of the
    original. Whole rows move, so this is exact in every format. Rows: [heads, head_dim / 2, 2] -> [heads, 2, head_dim / 2].
    """
    rows = weight.data.reshape(weight.shape[0], -1)
    if len(rows) % (2 * heads):
        raise CheckpointError(f"{len(rows)} query or key rows are not {heads} heads of an even size")
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return Weight(np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1), weight.format, weight.shape)


def _below(metadata: Mapping[str, object], prefix: str) -> dict[str, object]:
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}


def _vocab_size(file: GGUFFile, fields: Fields) -> int:
    """The embedding's rows."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{file.path} holds no token_embd.weight")
    rows = embedding.shape[0]
    if fields.integer("vocab_size", 1, limits.VOCAB, rows) != rows:
        raise fields.error("vocab_size", f"differs from the {rows} rows of token_embd.weight")
    return rows


def _head_dim(fields: Fields, default: int) -> int:
    head_dim = fields.integer("attention.key_length", 1, limits.HEAD_DIM, default)
    if head_dim % 2:
        raise fields.error("attention.key_length", f"{head_dim} must be even: RoPE rotates pairs")
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(key, 1, limits.HEAD_DIM, head_dim) != head_dim:
            raise fields.error(key, f"must equal the head size {head_dim}; anything else is not supported")
    return head_dim


def end_tokens(general: Fields, vocab_size: int) -> tuple[int, ...]:
    """Ids that end a text: those the file names, and tokens known to end a turn or a text in every model that has them."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    stated = [token_id for key in keys for token_id in general.token_ids(key, vocab_size)]
    tokens = general.value("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or len(tokens) > vocab_size:
        raise general.error("tokenizer.ggml.tokens", f"must be a list of at most {vocab_size} tokens, as the embedding has")
    known = [token_id for token_id, token in enumerate(tokens) if token in _END_TOKENS]
    return tuple(dict.fromkeys(stated + known))


def _rope(file: GGUFFile, fields: Fields, head_dim: int, max_position: int) -> RopeConfig:
    theta = fields.number("rope.freq_base", *limits.ROPE_THETA, 10_000.0)
    if _ROPE_FACTORS in file.tensors:
        return RopeConfig(head_dim, theta, frequency_factors=_frequency_factors(file, head_dim))
    kind = fields.text("rope.scaling.type", "linear" if "rope.scale_linear" in fields else "none")
    if kind == "none":
        return RopeConfig(head_dim, theta)
    factor = fields.number("rope.scaling.factor", *limits.ROPE_FACTOR, fields.number("rope.scale_linear", 0.0, 1e6, 1.0))
    if kind == "linear":
        return RopeConfig(head_dim, theta, "linear", factor)
    if kind != "yarn":
        raise fields.error("rope.scaling.type", f"{kind[:80]!r} is not supported; supported are none, linear, yarn")
    scale = fields.number("rope.scaling.attn_factor", 1e-3, 1e3, fields.number("rope.scaling.yarn_attn_factor", 1e-3, 1e3, 1.0))
    return RopeConfig(
        head_dim,
        theta,
        "yarn",
        factor,
        fields.integer("rope.scaling.original_context_length", 1, limits.POSITIONS, max_position),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0),
        attention_factor=None if scale == 1.0 else scale * (0.1 * math.log(factor) + 1.0),
    )


def _frequency_factors(file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    """Llama 3's scaling: the converter writes only what each frequency is divided by."""
    stored = file.tensors[_ROPE_FACTORS]
    if stored.format != "F32" or stored.shape != (head_dim // 2,):
        raise CheckpointError(f"{file.path}: rope_freqs.weight must hold {head_dim // 2} float32 values")
    factors = tuple(float(factor) for factor in stored.data.view("<f4"))
    low, high = limits.FREQUENCY_FACTOR
    if not all(low <= factor <= high for factor in factors):
        raise CheckpointError(f"{file.path}: rope_freqs.weight holds a factor that is not a sensible number")
    return factors
