"""Settings and weights of GGUF files: equal to those of the Hugging Face model they were made from."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.model_files import (
    HEADS,
    KV_HEADS,
    LAYERS,
    gguf_metadata,
    gguf_tensors,
    hf_tensors,
    smollm2,
    write_gguf,
)
from tiercel.models.gguf import read_gguf
from tiercel.models.gguf_config import hugging_face_name, read_config, read_weights, split_halves
from tiercel.ops import dequantize
from tiercel.ops.rope import attention_factor, frequencies
from tiercel.types import FORMATS, CheckpointError, ModelConfig, RopeConfig, Weight

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def read(path: Path, architecture: str = "llama", extra: dict[str, np.ndarray] | None = None, **changes: object) -> ModelConfig:
    """The settings of a tiny model with changed metadata; keys without a dot belong to the architecture."""
    prefixed = {key if "__" in key else f"{architecture}__{key}": value for key, value in changes.items()}
    tensors = gguf_tensors(hf_tensors(), ARCHITECTURES[architecture]) | (extra or {})
    write_gguf(path / "m.gguf", gguf_metadata(architecture, **prefixed), tensors, architecture=architecture)
    return read_config(read_gguf(path / "m.gguf"))


def test_smollm2() -> None:
    config = read_config(smollm2())
    assert config == ModelConfig(
        architecture="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9,
        num_kv_heads=3, head_dim=64, rms_norm_eps=config.rms_norm_eps, rope=RopeConfig(64, 100_000.0), max_position=8192,
        tie_embeddings=True, eos_token_ids=(2, 0), bos_token_id=1,
    )  # fmt: skip
    assert config.rms_norm_eps == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_models(tmp_path: Path, architecture: str) -> None:
    config = read(tmp_path, architecture)
    assert config.architecture == architecture
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.num_layers) == (HEADS, KV_HEADS, 8, LAYERS)
    assert (config.vocab_size, config.eos_token_ids, config.bos_token_id) == (259, (258, 256), 257)
    assert (config.tie_embeddings, config.qkv_bias) == (False, architecture == "qwen2")


@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_equal_those_of_hugging_face(tmp_path: Path, architecture: str, format: str) -> None:
    """The converter permutes q and k rows, then quantises row by row; what comes back is the original, quantised."""
    tensors = hf_tensors(bias=architecture == "qwen2", qk_norm=architecture == "qwen3")
    kind = ARCHITECTURES[architecture]
    path = tmp_path / "m.gguf"
    write_gguf(path, gguf_metadata(architecture), gguf_tensors(tensors, kind), architecture=architecture, format=format)
    file = read_gguf(path)
    weights = read_weights(file, read_config(file))
    assert set(weights) == set(tensors)
    for name, values in tensors.items():
        stored = values if values.ndim == 1 else gguf.quantize(values, gguf.GGMLQuantizationType[format])
        assert weights[name].format.name == ("F32" if values.ndim == 1 else format)
        assert weights[name].shape == values.shape
        assert weights[name].data.tobytes() == stored.tobytes(), name
        assert np.abs(dequantize(weights[name]) - values).max() < 0.5


def test_the_permutation_matters(tmp_path: Path) -> None:
    file = read_gguf(write_gguf(tmp_path / "m.gguf", gguf_metadata(), gguf_tensors(hf_tensors())))
    weights = read_weights(file, read_config(file))
    for part, ggml in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v")):
        as_stored = file.tensors[f"blk.0.{ggml}.weight"].data
        moved = not np.array_equal(weights[f"model.layers.0.self_attn.{part}.weight"].data, as_stored)
        assert moved == (part != "v_proj")


def test_rows_go_back_to_where_they_were() -> None:
    rows = np.arange(12, dtype=np.float32)
    weight = split_halves(Weight(rows.view(np.uint8), FORMATS["F32"], (12,)), 2)
    assert weight.data.view(np.float32).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    with pytest.raises(CheckpointError, match="12 query or key rows are not 5 heads"):
        split_halves(weight, 5)


@pytest.mark.parametrize("kind", ARCHITECTURES.values())
def test_names_invert_the_converters_table(kind: gguf.MODEL_ARCH) -> None:
    table = gguf.get_tensor_name_map(kind, 100)
    for name in hf_tensors(bias=kind == gguf.MODEL_ARCH.QWEN2, qk_norm=kind == gguf.MODEL_ARCH.QWEN3):
        name = name.replace("layers.1.", "layers.77.")
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        assert hugging_face_name(stored) == name


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.ffn_gate_inp.weight", "output", "blk.0", "attn_q.weight", "", "."]
)
def test_other_names_stay(name: str) -> None:
    assert hugging_face_name(name) == name


def test_a_name_may_not_be_taken_twice(tmp_path: Path) -> None:
    tensors = gguf_tensors(hf_tensors()) | {"model.norm.weight": np.zeros(4, np.float32)}
    file = read_gguf(write_gguf(tmp_path / "m.gguf", gguf_metadata(), tensors))
    with pytest.raises(CheckpointError, match="same name in Hugging Face terms"):
        read_weights(file, read_config(file))


def llama3_config() -> LlamaConfig:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 131_072}
    return LlamaConfig(**sizes, rope_parameters={**scaling, "rope_theta": 500_000.0})


def llama3_factors(head_dim: int) -> np.ndarray:
    """`LlamaModel.generate_extra_tensors` of convert_hf_to_gguf.py for the scaling above."""
    factors = []
    for frequency in 1.0 / 500_000.0 ** (np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        factors.append(1 if wavelength < 8192 / 4.0 else 8.0 if wavelength > 8192 / 1.0 else 1 / ((1 - smooth) / 8.0 + smooth))
    return np.array(factors, np.float32)


def test_llama3_scaling_is_kept_as_factors(tmp_path: Path) -> None:
    factors = llama3_factors(128)
    changes = {"attention__key_length": 128, "attention__value_length": 128, "rope__freq_base": 500_000.0}
    prefixed = {f"llama__{key}": value for key, value in changes.items()}
    config = read(tmp_path, extra={"rope_freqs.weight": factors}, **prefixed)
    assert config.rope.frequency_factors == tuple(factors.tolist())
    file = read_gguf(tmp_path / "m.gguf")
    assert set(read_weights(file, config)) == set(hf_tensors())  # they are a setting, and no weight that a model has place for
    rotary = LlamaRotaryEmbedding(llama3_config())
    assert np.allclose(frequencies(config.rope), rotary.inv_freq.numpy(), rtol=1e-6, atol=0)


def test_linear_scaling(tmp_path: Path) -> None:
    linear = read(tmp_path, llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0)
    assert linear.rope == RopeConfig(8, 10_000.0, "linear", 4.0)
    assert read(tmp_path, llama__rope__scale_linear=4.0).rope == linear.rope
    assert read(tmp_path, llama__rope__scaling__type="none").rope == RopeConfig(8, 10_000.0)


def test_yarn_scaling(tmp_path: Path) -> None:
    keys = {"type": "yarn", "factor": 4.0, "original_context_length": 128}
    yarn = read(tmp_path, "qwen2", **{f"qwen2__rope__scaling__{key}": value for key, value in keys.items()})
    assert yarn.rope == RopeConfig(8, 10_000.0, "yarn", 4.0, 128)
    keys |= {"attn_factor": 2.0, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0}
    louder = read(tmp_path, "qwen2", **{f"qwen2__rope__scaling__{key}": value for key, value in keys.items()})
    assert attention_factor(louder.rope) == 2.0 * attention_factor(yarn.rope)
    assert (louder.rope.beta_fast, louder.rope.beta_slow) == (16.0, 2.0)


def test_tied_embeddings_and_windows(tmp_path: Path) -> None:
    tensors = gguf_tensors(hf_tensors())
    del tensors["output.weight"]
    metadata = gguf_metadata(llama__attention__sliding_window=64)
    config = read_config(read_gguf(write_gguf(tmp_path / "m.gguf", metadata, tensors)))
    assert (config.tie_embeddings, config.sliding_window, config.windowed_layers) == (True, 64, (0, 1))


@pytest.mark.parametrize(
    ("architecture", "window", "expected"),
    [("llama", None, "llama"), ("llama", 0, "llama"), ("llama", 64, "mistral"), ("qwen2", 64, "qwen2"), ("qwen3", 64, "qwen3")],
)
def test_a_llama_with_a_window_is_a_mistral(tmp_path: Path, architecture: str, window: int | None, expected: str) -> None:
    """In its settings; rows of its queries and keys lie as those of any llama file do."""
    path = tmp_path / "m.gguf"
    tensors = gguf_tensors(hf_tensors(), ARCHITECTURES[architecture])
    changes = {f"{architecture}__attention__sliding_window": window}
    file = read_gguf(write_gguf(path, gguf_metadata(architecture, **changes), tensors, architecture=architecture))
    config = read_config(file)
    assert config.architecture == expected
    for name, weight in read_weights(file, config).items():
        assert np.array_equal(dequantize(weight), hf_tensors()[name]), name


WRONG: list[tuple[dict[str, object], str]] = [
    ({"block_count": None}, "block_count is missing"),
    ({"block_count": 1001}, "block_count"),
    ({"block_count": "two"}, "block_count"),
    ({"block_count": [2, 2]}, "block_count must be a whole number .* not a ndarray"),
    ({"context_length": 0}, "context_length"),
    ({"embedding_length": 1 << 21}, "embedding_length"),
    ({"feed_forward_length": [64, 64]}, "feed_forward_length"),
    ({"llama__attention__head_count": 0}, "head_count"),
    ({"llama__attention__head_count_kv": 3}, "head_count_kv 3 must divide attention.head_count 4"),
    ({"llama__attention__key_length": 7}, "key_length 7 must be even"),
    ({"llama__attention__value_length": 16}, "value_length must equal the head size 8"),
    ({"llama__rope__dimension_count": 4}, "rope.dimension_count must equal the head size 8"),
    ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
    ({"llama__attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
    ({"llama__rope__freq_base": -1.0}, "rope.freq_base"),
    ({"llama__rope__scaling__type": "longrope"}, "'longrope' is not supported; supported are none, linear, yarn"),
    ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 0.0}, "rope.scaling.factor"),
    ({"vocab_size": 300}, "vocab_size differs from the 259 rows of token_embd.weight"),
    ({"expert_count": 8}, "mixtures of experts are not supported"),
    ({"split__count": 3}, "split.count is above 1: join the parts first"),
    ({"tokenizer__ggml__tokens": ["x"] * 260}, "tokens must be a list of at most 259 tokens"),
    ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens"),
    ({"tokenizer__ggml__eos_token_id": 259}, "eos_token_id must hold token ids below 259"),
    ({"tokenizer__ggml__bos_token_id": 4000}, "bos_token_id"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[f"{message[:30]}-{i}" for i, (_, message) in enumerate(WRONG)])
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path, **changes)
    assert str(error.value).startswith("m.gguf: ")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones(3), "must hold 4 float32 values"),
        (np.array([1, 1, 1, np.nan]), "not a sensible number"),
        (np.array([1, 1, 1, 0.0]), "not a sensible number"),
    ],
)
def test_wrong_frequency_factors(tmp_path: Path, factors: np.ndarray, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, extra={"rope_freqs.weight": factors})


def test_other_architectures_and_files_without_an_embedding(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, {}, architecture="gemma3")
    with pytest.raises(CheckpointError, match="'gemma3' is not supported; supported are llama, qwen2, qwen3"):
        read_config(read_gguf(path))
    path = write_gguf(tmp_path / "m.gguf", gguf_metadata(), {})
    with pytest.raises(CheckpointError, match=r"holds no token_embd\.weight"):
        read_config(read_gguf(path))
