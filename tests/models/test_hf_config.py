"""Settings of Hugging Face models against the configuration classes of transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.model_files import hf_config
from tests.support.networks import NETWORKS
from tiercel.models.hf_config import config_json, read_config, read_generation_defaults
from tiercel.ops.rope import attention_factor, frequencies
from tiercel.types import CheckpointError, ModelConfig, RopeConfig

CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
NAMES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def write(directory: Path, generation: dict[str, object] | None = None, **changes: object) -> Path:
    (directory / "config.json").write_text(json.dumps(hf_config(**changes)))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def read(directory: Path, generation: dict[str, object] | None = None, **changes: object) -> ModelConfig:
    return read_config(write(directory, generation, **changes))


def transformers_config(directory: Path, architecture: str) -> PreTrainedConfig:
    return CLASSES[architecture].from_pretrained(directory)


def assert_agrees(ours: ModelConfig, theirs: PreTrainedConfig) -> None:
    expected = {
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "num_kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads),
        "rms_norm_eps": theirs.rms_norm_eps,
        "tie_embeddings": theirs.tie_word_embeddings,
        "sliding_window": theirs.sliding_window if getattr(theirs, "sliding_window", None) else None,
    }
    assert {key: getattr(ours, key) for key in expected} == expected
    rotary = LlamaRotaryEmbedding(theirs)
    assert np.allclose(frequencies(ours.rope), rotary.inv_freq.numpy(), rtol=1e-6, atol=0)
    assert attention_factor(ours.rope) == pytest.approx(rotary.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("architecture", CLASSES)
def test_defaults_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    """Only what every file states is stated."""
    stated = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = hf_config(architectures=[NAMES[architecture]], num_key_value_heads=2, max_position_embeddings=1000)
    kept = {key: config[key] for key in (*stated, "num_key_value_heads", "max_position_embeddings")}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    ours = read_config(tmp_path)
    assert ours.architecture == architecture
    assert_agrees(ours, transformers_config(tmp_path, architecture))
    assert ours.qkv_bias == (architecture == "qwen2")
    assert ours.max_position == 1000


@pytest.mark.parametrize("architecture", CLASSES)
def test_what_transformers_saves(tmp_path: Path, architecture: str) -> None:
    config = CLASSES[architecture](
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3,
        head_dim=16, rms_norm_eps=3e-5, tie_word_embeddings=True, architectures=[NAMES[architecture]],
        rope_parameters={"rope_type": "default", "rope_theta": 54321.0}, bos_token_id=1, eos_token_id=[2, 5],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
    ours = read_config(tmp_path)
    assert_agrees(ours, config)
    assert (ours.rope.theta, ours.bos_token_id, ours.eos_token_ids) == (54321.0, 1, (2, 5))


ROPES: dict[str, dict[str, object]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "llama3 without the trained window": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn in full": {
        "rope_type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 64,
        "beta_fast": 16,
        "beta_slow": 2,
        "attention_factor": 1.25,
    },
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.5,
        "beta_fast": 0,
    },
    "yarn not truncated": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "truncate": False},
    "yarn without a factor": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128},
}


@pytest.mark.parametrize("case", ROPES)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
def test_rope(tmp_path: Path, case: str, spelling: str) -> None:
    settings = dict(ROPES[case])
    if spelling == "rope_parameters":
        changes = {"rope_theta": None, "rope_parameters": {**settings, "rope_theta": 75_000.0}}
    elif spelling == "rope_scaling":
        changes = {"rope_theta": 75_000.0, "rope_scaling": settings}
    else:
        settings["type"] = settings.pop("rope_type")
        changes = {"rope_theta": 75_000.0, "rope_scaling": settings}
    ours = read(tmp_path, head_dim=64, **changes)
    assert_agrees(ours, transformers_config(tmp_path, "llama"))
    assert ours.rope != RopeConfig(64)


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    """Qwen's model cards say to add these settings and leave max_position_embeddings alone."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read(tmp_path, max_position_embeddings=32768, rope_scaling=scaling).max_position == 131_072
    assert read(tmp_path, max_position_embeddings=200_000, rope_scaling=scaling).max_position == 200_000


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize(
    "settings",
    [
        {"sliding_window": 64},
        {"sliding_window": None},
        {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1},
        {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 28},
        {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 0},
        {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0},
        {
            "sliding_window": 64,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        {},
    ],
)
def test_sliding_windows(tmp_path: Path, architecture: str, settings: dict[str, object]) -> None:
    ours = read(tmp_path, architectures=[NAMES[architecture]], num_hidden_layers=3, **settings)
    theirs = transformers_config(tmp_path, architecture)
    if architecture == "mistral" and "layer_types" not in settings:  # transformers has one window for all layers of Mistral
        layers = (0, 1, 2) if theirs.sliding_window else ()
    else:
        layers = tuple(i for i, kind in enumerate(theirs.layer_types) if kind == "sliding_attention")
    assert ours.windowed_layers == layers
    assert ours.sliding_window == (theirs.sliding_window if layers else None)


def test_llama_has_no_window(tmp_path: Path) -> None:
    config = read(tmp_path, sliding_window=64, use_sliding_window=True)
    assert (config.sliding_window, config.windowed_layers) == (None, ())


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [
        (2, None, (2,)),
        ([2, 3], None, (2, 3)),
        (2, 5, (5,)),
        (2, [5, 6], (5, 6)),
        (2, [], (2,)),
        (None, [5], (5,)),
        (None, None, ()),
    ],
)
def test_end_tokens(tmp_path: Path, in_config: object, in_generation: object, expected: tuple[int, ...]) -> None:
    generation = None if in_generation is None else {"eos_token_id": in_generation}
    assert read(tmp_path, generation, eos_token_id=in_config).eos_token_ids == expected


FACTORS = [1.0, 1.3, 5.7, 8.0]
LONGROPE = {"rope_type": "longrope", "factor": 1.0, "original_max_position_embeddings": 64, "attention_factor": 1.0}


def test_one_set_of_frequency_factors(tmp_path: Path) -> None:
    """LongRoPE whose two lists are one: how a GGUF file's factors are said in config.json."""
    ours = read(tmp_path, rope_scaling={**LONGROPE, "short_factor": FACTORS, "long_factor": FACTORS})
    assert ours.rope == RopeConfig(8, 10_000.0, frequency_factors=tuple(FACTORS))
    assert_agrees(ours, transformers_config(tmp_path, "llama"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"long_factor": [1.0, 1.3, 5.7, 9.0]}, "'longrope' is not supported unless short_factor equals long_factor"),
        ({"attention_factor": None}, "'longrope' is not supported unless"),
        ({"attention_factor": 1.2}, "'longrope' is not supported unless"),
        ({"short_factor": FACTORS[1:], "long_factor": FACTORS[1:]}, "short_factor must be a list of 4 numbers"),
        ({"short_factor": "1234", "long_factor": "1234"}, "short_factor must be a list of 4 numbers"),
        ({"short_factor": [1, 2, 3, "4"], "long_factor": [1, 2, 3, "4"]}, "short_factor: 3 must be a number"),
        ({"short_factor": [1, 2, 3, 0], "long_factor": [1, 2, 3, 0]}, "short_factor: 3 must be a number between 1e-06"),
    ],
)
def test_frequency_factors_that_are_none(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, rope_scaling={**LONGROPE, "short_factor": FACTORS, "long_factor": FACTORS, **changes})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ends", [(), (7,), (7, 3)])
def test_settings_are_read_back_as_they_were_written(tmp_path: Path, name: str, ends: tuple[int, ...]) -> None:
    """By us to the last bit, and by transformers to the same network."""
    config = replace(NETWORKS[name].config, rms_norm_eps=float(np.float32(1e-5)), eos_token_ids=ends, bos_token_id=1)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    ours = read_config(tmp_path)
    assert ours == config
    assert_agrees(ours, transformers_config(tmp_path, config.architecture))


def test_recommended_sampling(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_generation_defaults(tmp_path) == {}
    settings = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "max_length": 4096,
    }
    write(tmp_path, settings)
    expected = {"temperature": 0.6, "top_p": 0.9, "top_k": 20.0, "repetition_penalty": 1.05}
    assert read_generation_defaults(tmp_path) == expected
    write(tmp_path, {**settings, "do_sample": False})
    assert read_generation_defaults(tmp_path) == {"repetition_penalty": 1.05}
    write(tmp_path, {**settings, "temperature": -1})
    with pytest.raises(CheckpointError, match=r"generation_config\.json: temperature"):
        read_generation_defaults(tmp_path)


WRONG: list[tuple[dict[str, object], str]] = [
    (
        {"architectures": ["GPT2LMHeadModel"]},
        "architectures 'GPT2LMHeadModel' is not supported; supported are LlamaForCausalLM",
    ),
    ({"architectures": []}, "architectures"),
    ({"architectures": None}, "architectures"),
    ({"architectures": [["x"]]}, "architectures"),
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"vocab_size": 10**12}, "vocab_size"),
    ({"vocab_size": 1 << 5000}, "vocab_size must be .* not a number beyond 64 bits"),
    ({"vocab_size": "many"}, "vocab_size"),
    ({"vocab_size": True}, "vocab_size"),
    ({"vocab_size": [1]}, "vocab_size .* not a list"),
    ({"hidden_size": -1}, "hidden_size"),
    ({"hidden_size": 32.0}, "hidden_size"),
    ({"intermediate_size": 10**10}, "intermediate_size"),
    ({"num_hidden_layers": 1001}, "num_hidden_layers"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"num_attention_heads": 0}, "num_attention_heads"),
    ({"num_attention_heads": 64}, "head_dim"),
    ({"num_key_value_heads": 3}, "num_key_value_heads 3 must divide num_attention_heads 4"),
    ({"num_key_value_heads": 8}, "num_key_value_heads"),
    ({"head_dim": 7}, "head_dim 7 must be even"),
    ({"head_dim": 10**6}, "head_dim"),
    ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ({"max_position_embeddings": 1 << 25}, "max_position_embeddings"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number between 0 and 1, not nan"),
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
    ({"rope_theta": 0}, "rope_theta"),
    ({"rope_theta": "10000"}, "rope_theta"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported is silu"),
    ({"attention_bias": True}, "attention_bias is not supported for llama"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"quantization_config": {"quant_method": "gptq"}}, "'gptq' is not supported; use the unquantised model"),
    ({"quantization_config": "x"}, "quantization_config must be an object"),
    ({"eos_token_id": 259}, "eos_token_id must hold token ids below 259"),
    ({"eos_token_id": [1, -1]}, "eos_token_id"),
    ({"eos_token_id": "2"}, "eos_token_id"),
    ({"bos_token_id": 10**9}, "bos_token_id"),
    ({"rope_scaling": []}, "rope_scaling must be an object"),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_type 'dynamic' is not supported; supported are default, linear",
    ),
    ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
    ({"rope_scaling": {"rope_type": 3}}, "rope_type"),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor is missing"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}}, "high_freq_factor 1"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 32}}, "beta_fast 1 must be above"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "attention_factor": -1.0}}, "attention_factor"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs by layer type"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not supported"),
    ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window"),
    ({"architectures": ["MistralForCausalLM"], "sliding_window": 8, "layer_types": ["full_attention"]}, "each of the 2 layers"),
    ({"architectures": ["MistralForCausalLM"], "sliding_window": 8, "layer_types": ["full_attention", {}]}, "layer_types"),
    ({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": "no"}, "use_sliding_window"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[f"{message[:30]}-{i}" for i, (_, message) in enumerate(WRONG)])
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path, **changes)
    assert str(error.value).startswith("config.json: ")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 10_000, b'{"a": 1' + b"0" * 5000 + b"}"])
def test_files_that_are_not_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config.json.* (is not valid JSON|must hold a JSON object)"):
        read_config(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json: No such file"):
        read_config(tmp_path)


def test_a_file_too_large_to_be_settings(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="larger than 64 MiB"):
        read_config(tmp_path)
