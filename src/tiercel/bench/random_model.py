"""A model directory with random weights, for measuring a shape whose weights nobody has at hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from tiercel.bench.shapes import SHAPES
from tiercel.models.hf_config import config_json
from tiercel.types import InvalidInput, ModelConfig

STD = 0.02  # of weights, as networks are initialised
_PIECE = 1 << 24  # values drawn at once


@contextmanager
def random_model(shape: str) -> Iterator[Path]:
    """A directory that is gone at the end. shape: one of `SHAPES`. Raises InvalidInput."""
    if shape not in SHAPES:
        raise InvalidInput("shape", f"must be one of {', '.join(SHAPES)}, got {shape!r}")
    with TemporaryDirectory(prefix="tiercel-bench-") as folder:
        yield write_random_model(Path(folder) / shape, SHAPES[shape])


def write_random_model(folder: Path, model: ModelConfig, seed: int = 0) -> Path:
    """Writes settings, bf16 weights and a tokenizer of as many tokens as the model has, bytes first. Returns the folder.

    Raises OSError.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(model)))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(model.vocab_size)))
    shapes = _tensors(model)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    encoded = json.dumps(header).encode()
    rng = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            for piece in _values(name, prod(shape), rng):
                file.write(piece.data)
    return folder


def _tokenizer(vocab_size: int) -> dict[str, object]:
    """Byte-level BPE without merges: a text becomes its bytes, every other token has a name of its own."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's alphabet: these stand for themselves,
    others = [byte for byte in range(256) if byte not in printable]  # and these for characters from 256 on
    alphabet = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    names = [*alphabet, *(f"<{number}>" for number in range(len(alphabet), vocab_size))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {name: number for number, name in enumerate(names)}, "merges": []},
    }


def _tensors(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by Hugging Face name."""
    hidden, mlp = model.hidden_size, model.intermediate_size
    heads, kv_heads = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (model.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not model.tie_embeddings:
        shapes["lm_head.weight"] = (model.vocab_size, hidden)
    for layer in range(model.num_layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "self_attn.q_proj.weight": (heads, hidden),
            at + "self_attn.k_proj.weight": (kv_heads, hidden),
            at + "self_attn.v_proj.weight": (kv_heads, hidden),
            at + "self_attn.o_proj.weight": (hidden, heads),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "mlp.gate_proj.weight": (mlp, hidden),
            at + "mlp.up_proj.weight": (mlp, hidden),
            at + "mlp.down_proj.weight": (hidden, mlp),
        }
        if model.qkv_bias:
            sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
            shapes |= {at + f"self_attn.{part}_proj.bias": (size,) for part, size in sizes.items()}
    return shapes


def _values(name: str, count: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.uint16]]:
    """bf16 numbers in pieces: ones for norms, zeros for biases, a normal distribution for all else."""
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        if name.endswith("norm.weight"):
            values = np.ones(size, np.float32)
        elif name.endswith(".bias"):
            values = np.zeros(size, np.float32)
        else:
            values = rng.standard_normal(size, np.float32) * np.float32(STD)
        yield (values.view(np.uint32) >> 16).astype(np.uint16)
