"""A GGUF model as a directory with safetensors: the same numbers in float32, and the same KV.

Cached KV belongs to the fingerprint of a model's weights. The copy's file records that of the GGUF file, beside a digest of
its own content: what one of them computed is found by the other, and a copy that was changed since is a model of its own.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tiercel.models.build import build_model
from tiercel.models.checkpoint import Checkpoint, open_checkpoint
from tiercel.models.hf_config import config_json
from tiercel.models.safetensors import SINGLE_FILE, write_float32
from tiercel.models.weights import fingerprint, inheritance
from tiercel.ops import Handle, Recorder, dequantize
from tiercel.types import FORMATS, InvalidInput, ModelError, Weight

Progress = Callable[[str], object]  # is told what is under way

_FILES = ("config.json", "generation_config.json", SINGLE_FILE, "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Conversion:
    """What was written. size: bytes of the weights."""

    tensors: int
    size: int
    fingerprint: str


def convert_model(
    source: Path, destination: Path, *, force: bool = False, progress: Progress = lambda stage: None
) -> Conversion:
    """Writes the model of a `.gguf` file as a new directory in Hugging Face's form.

    The directory is there when it is complete and has been read back, or not at all. Holds one tensor in memory at a time.
    force: an earlier conversion may stand there and is replaced; progress: told what is under way.
    Raises InvalidInput for a source or destination that cannot be one, ModelError for a model that cannot be converted and
    if the disk does not take it.
    """
    if source.is_dir():
        raise InvalidInput("source", f"{source} holds safetensors already; what is converted is a .gguf file")
    destination = destination.expanduser().resolve()
    try:
        _check_destination(destination, force)
        original = open_checkpoint(source)
        build_model(original.config, original.weights, _Outline())
        with TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as scratch:
            copy = Path(scratch, "copy")
            copy.mkdir()
            _write(original, copy, progress)
            progress("reading the copy back")
            converted = open_checkpoint(copy)
            _compare(original, converted)
            _put_in_place(copy, destination, aside=Path(scratch, "replaced"))
    except OSError as error:
        raise ModelError(f"cannot write {destination}: {error.strerror}; it is as it was before") from error
    weights = converted.weights.values()
    return Conversion(len(weights), sum(weight.data.nbytes for weight in weights), converted.fingerprint)


def _check_destination(destination: Path, force: bool) -> None:
    """Nothing may be replaced but what a conversion wrote."""
    if not destination.parent.is_dir():
        raise InvalidInput("destination", f"there is no directory {destination.parent} to make it in")
    if not destination.exists():
        return
    if not destination.is_dir():
        raise InvalidInput("destination", f"{destination} is a file; name a directory")
    held = sorted(os.listdir(destination))
    foreign = [name for name in held if name not in _FILES]
    if foreign:
        raise InvalidInput("destination", f"{destination} holds {foreign[0]}, which no conversion wrote; name a new directory")
    if held and not force:
        raise InvalidInput("destination", f"{destination} holds a model already; --force replaces it")


def _write(original: Checkpoint, directory: Path, progress: Progress) -> None:
    weights = _Float32(original.weights)
    progress("taking the fingerprints")
    metadata = inheritance(original.fingerprint, fingerprint(weights))
    progress("writing float32 weights")
    write_float32(directory / SINGLE_FILE, weights.shapes, weights, metadata)
    for name, content in _settings(original).items():
        (directory / name).write_text(json.dumps(content, indent=2))
    (directory / "tokenizer.json").write_text(original.tokenizer.to_json(), encoding="utf-8")
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _settings(original: Checkpoint) -> dict[str, dict[str, object]]:
    """The small files' content by their names."""
    config = config_json(original.config)
    tokenizer: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # take tokenizer.json as it stands
        "clean_up_tokenization_spaces": False,
        "model_max_length": original.config.max_position,
        "chat_template": original.chat_template,
        **original.tokenizer.special_tokens,
    }
    return {
        "config.json": {**config, "dtype": "float32"},
        "generation_config.json": {name: config[name] for name in ("bos_token_id", "eos_token_id")},
        "tokenizer_config.json": tokenizer,
    }


def _compare(original: Checkpoint, copy: Checkpoint) -> None:
    """Raises ModelError unless the copy reads as the same model: what cannot be said in its files is not left out."""
    there, here = _facts(original), _facts(copy)
    differing = [name for name in there if there[name] != here[name]]
    if differing:
        raise ModelError(f"{original.path} cannot be converted: its {', '.join(differing)} would read otherwise")


def _facts(checkpoint: Checkpoint) -> dict[str, object]:
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    return {
        **vars(replace(config, max_position=0)),  # Hugging Face's files tell it scaled, GGUF files do not
        "tokenizer": tokenizer.to_json(),
        "vocabulary": (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.special_tokens),
        "chat template": checkpoint.chat_template,
        "fingerprint": checkpoint.fingerprint,
    }


def _put_in_place(copy: Path, destination: Path, aside: Path) -> None:
    """By renaming, so that there is never half a model. An earlier conversion goes aside."""
    if destination.exists():
        destination.rename(aside)
    copy.rename(destination)


class _Outline(Recorder):
    """Has a model ask for its tensors, so that all are known to be there and readable, and keeps hold of none."""

    def pack(self, *weights: Weight, table: bool = False) -> Handle:
        return super().pack()


class _Float32(Mapping[str, Weight]):
    """Weights of any format as float32, each made when it is asked for."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self._weights = weights
        self.shapes = {name: weight.shape for name, weight in weights.items()}

    def __getitem__(self, name: str) -> Weight:
        values = dequantize(self._weights[name])
        return Weight(values.reshape(-1).view(np.uint8), FORMATS["F32"], values.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
