"""A model on disk, whatever its file format."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path

from tiercel.models import gguf_config, gguf_tokenizer, hf_config, tokenizer
from tiercel.models.gguf import read_gguf
from tiercel.models.safetensors import read_metadata, read_safetensors
from tiercel.models.tokenizer import Tokenizer
from tiercel.models.weights import fingerprint, inherited
from tiercel.types import CheckpointError, ModelConfig, Weight


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `open_checkpoint` finds: settings, memory-mapped weights under their Hugging Face names, tokenizer, chat template.

    metadata: texts by name that the writer of the weights left beside them.
    generation_defaults: sampling settings the model's author recommends (`generation_config.json`), possibly empty.
    folder: where what is made of the model may be kept for later starts (`models.prepared`); it may not be there yet, and
    files that are written to it may vanish. None = nowhere.
    """

    path: Path
    name: str
    config: ModelConfig
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer
    chat_template: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """How many numbers the weights hold, by the name of their format: {"Q4_1": 134219776, "F32": 35136}."""
        counts = Counter[str]()
        for weight in self.weights.values():
            counts[weight.format.name] += prod(weight.shape)
        return counts

    @cached_property
    def matrix_formats(self) -> tuple[str, ...]:
        """The formats in which matrices are stored, by name, in order."""
        return tuple(sorted({weight.format.name for weight in self.weights.values() if len(weight.shape) == 2}))

    @cached_property
    def fingerprint(self) -> str:
        """Hex BLAKE3 over names, formats, shapes and bytes of all weights; of a converted copy, that of the original.

        Reads all weights, once.
        """
        return inherited(fingerprint(self.weights), self.metadata)


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a `.gguf` file, or a directory with `config.json`, safetensors and `tokenizer.json`.

    Weights stay on disk until they are used. Raises CheckpointError naming the file and what is wrong with it.
    """
    checkpoint = _open_directory(path) if path.is_dir() else _open_gguf(path)
    _check_embedding(checkpoint)
    return checkpoint


def open_weights(path: Path, config: ModelConfig) -> Mapping[str, Weight]:
    """Only the weights of a model whose settings are known. Raises CheckpointError."""
    return read_safetensors(path) if path.is_dir() else gguf_config.read_weights(read_gguf(path), config)


def model_name(path: Path) -> str:
    """What a model is called whose files lie at `path`."""
    return _directory_name(path) if path.is_dir() else path.stem


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    config = gguf_config.read_config(file)
    template = file.metadata.get("tokenizer.chat_template")
    return Checkpoint(
        path=path,
        name=model_name(path),
        config=config,
        weights=gguf_config.read_weights(file, config),
        tokenizer=gguf_tokenizer.read_tokenizer(file),
        chat_template=template if isinstance(template, str) else None,
    )


def _open_directory(path: Path) -> Checkpoint:
    config = hf_config.read_config(path)
    vocabulary = tokenizer.read_tokenizer(path, config.eos_token_ids)
    if max(vocabulary.eos_token_ids, default=0) >= config.vocab_size:
        raise CheckpointError(f"{path}: the tokenizer's eos_token is none of the model's {config.vocab_size} tokens")
    return Checkpoint(
        path=path,
        name=model_name(path),
        config=replace(config, eos_token_ids=vocabulary.eos_token_ids),
        weights=read_safetensors(path),
        tokenizer=vocabulary,
        chat_template=tokenizer.read_chat_template(path),
        metadata=read_metadata(path),
        generation_defaults=hf_config.read_generation_defaults(path),
    )


def _directory_name(path: Path) -> str:
    """The directory's own name; `org/name` for a snapshot in the Hugging Face cache (models--org--name/snapshots/<commit>)."""
    resolved = path.resolve()
    repository = resolved.parent.parent.name
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return resolved.name


def _check_embedding(checkpoint: Checkpoint) -> None:
    name, config = "model.embed_tokens.weight", checkpoint.config
    if name not in checkpoint.weights:
        raise CheckpointError(f"{checkpoint.path} holds no {name}")
    shape = checkpoint.weights[name].shape
    if shape != (config.vocab_size, config.hidden_size):
        raise CheckpointError(
            f"{checkpoint.path}: {name} is {list(shape)}, but the settings speak of {config.vocab_size} tokens "
            f"and {config.hidden_size} channels"
        )
