"""`config.json` and `generation_config.json` of a Hugging Face model directory, as a `ModelConfig`.

Both spellings of RoPE settings are read: `rope_theta` + `rope_scaling`, and `rope_parameters` (transformers 5). What a file
leaves out has the default of the model's class in transformers, except for token ids, which the tokenizer knows better.
"""

import math
from pathlib import Path

from tiercel.models import limits
from tiercel.models.fields import Fields, read_fields
from tiercel.types import ModelConfig, RopeConfig

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

_ROPE_DETAILS = {  # of a kind of scaling, beside factor and trained window: the same names here and there
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
}

_RECOMMENDED = {  # what generation_config.json may recommend, with its range
    "temperature": (0.0, 100.0),
    "top_k": (0.0, 2.0**31),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}


def read_config(directory: Path) -> ModelConfig:
    """The network's settings. Raises CheckpointError naming file and key."""
    fields = read_fields(directory / "config.json")
    generation = read_fields(directory / "generation_config.json", required=False)
    architecture = _architecture(fields)
    _refuse_unsupported(fields, architecture)

    vocab_size = fields.integer("vocab_size", 1, limits.VOCAB)
    hidden_size = fields.integer("hidden_size", 1, limits.CHANNELS)
    num_layers = fields.integer("num_hidden_layers", 1, limits.LAYERS)
    num_heads = fields.integer("num_attention_heads", 1, limits.HEADS)
    num_kv_heads = fields.integer("num_key_value_heads", 1, num_heads, num_heads)
    if num_heads % num_kv_heads:
        raise fields.error("num_key_value_heads", f"{num_kv_heads} must divide num_attention_heads {num_heads}")
    head_dim = fields.integer("head_dim", 1, limits.HEAD_DIM, 128 if architecture == "qwen3" else hidden_size // num_heads)
    if head_dim % 2:
        raise fields.error("head_dim", f"{head_dim} must be even: RoPE rotates pairs")
    max_position = fields.integer("max_position_embeddings", 1, limits.POSITIONS)
    rope = _rope(fields, head_dim, max_position)
    if rope.scaling == "yarn":  # long-context models are told to leave max_position_embeddings at the trained window
        max_position = min(max(max_position, int(rope.original_max_position * rope.factor)), limits.POSITIONS)
    window, windowed_layers = _sliding_window(fields, architecture, num_layers)
    eos_token_ids = generation.token_ids("eos_token_id", vocab_size) or fields.token_ids("eos_token_id", vocab_size)
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, limits.CHANNELS),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        rope=rope,
        max_position=max_position,
        tie_embeddings=fields.boolean("tie_word_embeddings", False),
        qkv_bias=architecture == "qwen2",
        sliding_window=window,
        windowed_layers=windowed_layers,
        eos_token_ids=eos_token_ids,
        bos_token_id=next(iter(fields.token_ids("bos_token_id", vocab_size)), None),
    )


def read_generation_defaults(directory: Path) -> dict[str, float]:
    """The sampling settings that the model's author recommends. With `do_sample` off only the penalty counts."""
    generation = read_fields(directory / "generation_config.json", required=False)
    sampled = generation.boolean("do_sample", False)
    return {
        key: generation.number(key, low, high)
        for key, (low, high) in _RECOMMENDED.items()
        if key in generation and (sampled or key == "repetition_penalty")
    }


def config_json(config: ModelConfig) -> dict[str, object]:
    """What `read_config` reads as these settings, in the spellings that transformers has known longest."""
    names = {architecture: name for name, architecture in ARCHITECTURES.items()}
    return {
        "architectures": [names[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config),
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        **_window_settings(config),
    }


def _rope_scaling(config: ModelConfig) -> dict[str, object] | None:
    rope = config.rope
    if rope.frequency_factors:
        one_set = {"short_factor": rope.frequency_factors, "long_factor": rope.frequency_factors}
        no_more = {"factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": config.max_position}
        return {"rope_type": "longrope", **one_set, **no_more}
    if rope.scaling == "none":
        return None
    stated: dict[str, object] = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.original_max_position:
        stated["original_max_position_embeddings"] = rope.original_max_position
    return stated | {name: getattr(rope, name) for name in _ROPE_DETAILS.get(rope.scaling, ())}


def _window_settings(config: ModelConfig) -> dict[str, object]:
    if config.architecture == "llama":  # has none
        return {}
    if config.architecture == "mistral" or config.sliding_window is None:
        return {"sliding_window": config.sliding_window}
    kinds = dict.fromkeys(config.windowed_layers, "sliding_attention")
    layer_types = [kinds.get(layer, "full_attention") for layer in range(config.num_layers)]
    return {"use_sliding_window": True, "sliding_window": config.sliding_window, "layer_types": layer_types}


def _architecture(fields: Fields) -> str:
    names = fields.value("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise fields.error("architectures", f"{name!r:.80} is not supported; supported are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _refuse_unsupported(fields: Fields, architecture: str) -> None:
    """Settings that would change the network in ways the model descriptions do not know."""
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise fields.error("hidden_act", f"{activation[:80]!r} is not supported; supported is silu")
    for key in ("attention_bias", "mlp_bias"):
        if fields.boolean(key, False) and architecture != "qwen2":
            raise fields.error(key, f"is not supported for {architecture}")
    if "quantization_config" in fields:
        method = fields.section("quantization_config").text("quant_method", "unknown")
        raise fields.error("quantization_config", f"{method[:80]!r} is not supported; use the unquantised model or a GGUF file")


def _sliding_window(fields: Fields, architecture: str, num_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that see no further."""
    switched_on = architecture == "mistral" or (
        architecture in ("qwen2", "qwen3") and fields.boolean("use_sliding_window", False)
    )
    if not switched_on or (fields.states("sliding_window") and "sliding_window" not in fields):
        return None, ()
    window = fields.integer("sliding_window", 1, limits.POSITIONS, 4096)
    if "layer_types" in fields:
        layers = _layers_of_type(fields, num_layers)
    elif architecture == "mistral":
        layers = tuple(range(num_layers))
    else:
        layers = tuple(range(fields.integer("max_window_layers", 0, limits.LAYERS, 28), num_layers))
    return (window, layers) if layers else (None, ())


def _layers_of_type(fields: Fields, num_layers: int) -> tuple[int, ...]:
    kinds = fields.value("layer_types")
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise fields.error("layer_types", f"must name the attention of each of the {num_layers} layers")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise fields.error("layer_types", f"{kind!r:.80} is not supported; supported are full_attention, sliding_attention")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")


def _rope(fields: Fields, head_dim: int, max_position: int) -> RopeConfig:
    key = "rope_scaling" if "rope_scaling" in fields else "rope_parameters"
    settings = fields.section(key)
    theta = settings.number("rope_theta", *limits.ROPE_THETA, fields.number("rope_theta", *limits.ROPE_THETA, 10_000.0))
    for place in (fields, settings):
        if place.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
            raise place.error("partial_rotary_factor", "is not supported: RoPE must rotate whole heads")
    if settings.value("full_attention") or settings.value("sliding_attention"):
        raise fields.error(key, "differs by layer type, which is not supported")
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind == "default":
        return RopeConfig(head_dim, theta)
    if kind == "linear":
        return RopeConfig(head_dim, theta, "linear", settings.number("factor", *limits.ROPE_FACTOR))
    if kind == "longrope":
        return RopeConfig(head_dim, theta, frequency_factors=_frequency_factors(settings, head_dim))
    if kind not in ("llama3", "yarn"):
        raise settings.error("rope_type", f"{kind[:80]!r} is not supported; supported are default, linear, llama3, yarn")
    original = fields.integer(
        "original_max_position_embeddings",
        1,
        limits.POSITIONS,
        settings.integer("original_max_position_embeddings", 1, limits.POSITIONS, max_position),
    )
    if kind == "yarn":
        return _yarn(settings, RopeConfig(head_dim, theta, original_max_position=original), max_position)
    low, high = settings.number("low_freq_factor", 1e-3, 1e6), settings.number("high_freq_factor", 1e-3, 1e6)
    if low >= high:
        raise settings.error("high_freq_factor", f"{high:g} must be above low_freq_factor {low:g}")
    factor = settings.number("factor", *limits.ROPE_FACTOR)
    return RopeConfig(head_dim, theta, "llama3", factor, original, low_freq_factor=low, high_freq_factor=high)


def _frequency_factors(settings: Fields, head_dim: int) -> tuple[float, ...]:
    """What each frequency is divided by. LongRoPE has two lists, for short and for long contexts: here they must be one."""
    factors = settings.value("short_factor")
    if not factors or factors != settings.value("long_factor") or settings.value("attention_factor") != 1.0:
        message = "'longrope' is not supported unless short_factor equals long_factor and attention_factor is 1"
        raise settings.error("rope_type", message)
    if not isinstance(factors, list) or len(factors) != head_dim // 2:
        raise settings.error("short_factor", f"must be a list of {head_dim // 2} numbers")
    numbered = Fields(f"{settings.source}: short_factor", {str(place): factor for place, factor in enumerate(factors)})
    return tuple(numbered.number(str(place), *limits.FREQUENCY_FACTOR) for place in range(len(factors)))


def _yarn(settings: Fields, plain: RopeConfig, max_position: int) -> RopeConfig:
    original = plain.original_max_position
    factor = settings.number("factor", *limits.ROPE_FACTOR, max(max_position / original, 1.0))
    fast = settings.number("beta_fast", 0.0, 1e6) if settings.value("beta_fast") else 32.0  # 0 stands for the default
    slow = settings.number("beta_slow", 0.0, 1e6) if settings.value("beta_slow") else 1.0
    if slow >= fast:
        raise settings.error("beta_fast", f"{fast:g} must be above beta_slow {slow:g}")
    attention_factor = None
    if "attention_factor" in settings:
        attention_factor = settings.number("attention_factor", 1e-3, 1e3)
    elif settings.value("mscale") and settings.value("mscale_all_dim"):
        above, below = (settings.number(key, 0.0, 1e3) for key in ("mscale", "mscale_all_dim"))
        attention_factor = (0.1 * above * math.log(factor) + 1.0) / (0.1 * below * math.log(factor) + 1.0)
    return RopeConfig(
        plain.head_dim,
        plain.theta,
        "yarn",
        factor,
        original,
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=attention_factor,
        truncate=settings.boolean("truncate", True),
    )
