"""What was read from a model's files, kept for the next start: settings, tokenizer, fingerprint.

    ROOT/NAME-PATH/FILES/checkpoint      PATH, FILES: digests of where the files lie, and of the files' states

The first start reads a model's files, all of them for the fingerprint; a later one reads this file, and the weights where
somebody asks for them. It is used only if the model's files are as they were (device, inode, size, times of change), if the
same code wrote it, and if it is whole; otherwise the model is opened as if nothing had been kept. A kept file is data for this
user alone, never code. The folder also takes what others make of the same files, such as packed weights.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import tokenizers
from blake3 import blake3

from tiercel.models.checkpoint import Checkpoint, model_name, open_checkpoint, open_weights
from tiercel.models.tokenizer import load_tokenizer
from tiercel.stores.file.folders import claim
from tiercel.stores.file.temporary import collect, new_file, publish
from tiercel.telemetry import get_logger
from tiercel.types import CheckpointError, ModelConfig, RopeConfig, Weight

log = get_logger("tiercel.models")

FILE = "checkpoint"

_FORMAT = b"tiercel checkpoint 1 "  # then the digest of all that follows the first line
_UNSETTLED = 2.0  # seconds: a file changed so lately may change once more without its times telling
_DIGEST_CHARACTERS = 16

Files = list[list[Any]]  # of each file: name, device, inode, size, times of the last change of content and of anything


def open_prepared(path: Path, root: Path | None) -> Checkpoint:
    """The model at `path` as `open_checkpoint` opens it, sooner where this was done before.

    root: the folder of all that is kept; None = nothing is. Whatever is wrong with it costs time and nothing else. Raises
    CheckpointError.
    """
    if root is None:
        return open_checkpoint(path)
    files = _files(path)
    own = _folder(path, root, files)
    if own is None:
        return open_checkpoint(path)
    try:
        return _recall(path, own, files)
    except FileNotFoundError:
        log.debug("the model is read for the first time", path=str(path))
    except Exception as error:  # whatever a broken file leads to
        log.debug("a kept model cannot be used; it is read anew", path=str(own), reason=str(error))
    return _Opened(**_values(open_checkpoint(path)) | {"folder": own}, keep=lambda opened: _keep(opened, own, files))


def folder(path: Path, root: Path | None) -> Path | None:
    """Where to keep what is made of the model at `path`, as its files are now. The folder may not be there yet.

    Files there are for one user, replaced by renaming, and removed once the model's files have changed or gone. None where
    nothing is to be kept: there is no `root`, it is not this user's alone, or the files were changed a moment ago. Raises
    CheckpointError where there is no model.
    """
    return _folder(path, root, _files(path)) if root is not None else None


def kept_bytes(folder: Path) -> int:
    """Bytes of what is kept in a model's folder; 0 where there is none."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return 0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Opened(Checkpoint):
    """Read from the model's files; kept for the next start as soon as the fingerprint is known."""

    keep: Callable[[Checkpoint], None]

    @cached_property
    def fingerprint(self) -> str:
        vars(self)["fingerprint"] = found = super().fingerprint
        self.keep(self)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class _Recalled(Checkpoint):
    """Kept by an earlier start."""

    known_fingerprint: str
    known_parameters: Mapping[str, int]
    known_formats: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        return self.known_fingerprint

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        return self.known_parameters

    @cached_property
    def matrix_formats(self) -> tuple[str, ...]:
        return self.known_formats


class _LaterWeights(Mapping[str, Weight]):
    """The weights of a model whose files have not been opened yet."""

    def __init__(self, path: Path, config: ModelConfig, files: Files) -> None:
        self._path, self._config, self._files = path, config, files

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @cached_property
    def _weights(self) -> Mapping[str, Weight]:
        weights = open_weights(self._path, self._config)
        if _files(self._path) != self._files:
            raise CheckpointError(f"{self._path} was changed since it was opened; start again")
        return weights


def _folder(path: Path, root: Path, files: Files) -> Path | None:
    try:
        claim(root)
    except OSError as error:
        log.debug("prepared models are not kept", path=str(root), reason=str(error))
        return None
    now = time.time_ns()
    if any(abs(now - changed) < _UNSETTLED * 1e9 for *_, changed, _ in files):
        return None
    real = os.path.realpath(path)
    return root / f"{model_name(Path(real)).replace('/', '--')}-{_digest(real)}" / _digest(json.dumps(files))


def _recall(path: Path, own: Path, files: Files) -> Checkpoint:
    """The kept checkpoint. Raises FileNotFoundError where there is none, anything where it is of no use."""
    content = (own / FILE).read_bytes()
    head, _, rest = content.partition(b"\n")
    if head != _FORMAT + blake3(rest).hexdigest().encode():
        raise ValueError("it is of another version, or broken")
    description, _, tokenizer = rest.partition(b"\n")
    known = json.loads(description)
    if known["reader"] != _reader() or known["files"] != files:
        raise ValueError("it was made of other files, or by other code")
    config = _config(known["config"])
    return _Recalled(
        path=path,
        name=model_name(path),
        config=config,
        weights=_LaterWeights(path, config, files),
        tokenizer=load_tokenizer(known["tokenizer"], tokenizer),
        chat_template=known["chat_template"],
        metadata=known["metadata"],
        generation_defaults=known["generation_defaults"],
        folder=own,
        known_fingerprint=known["fingerprint"],
        known_parameters=known["parameters"],
        known_formats=tuple(known["matrix_formats"]),
    )


def _keep(opened: Checkpoint, own: Path, files: Files) -> None:
    """Writes what `_recall` reads, unless the model's files have changed meanwhile or the disk does not take it."""
    values, tokenizer = opened.tokenizer.dump()
    known = {
        "reader": _reader(),
        "path": os.path.realpath(opened.path),
        "files": files,
        "fingerprint": opened.fingerprint,
        "parameters": dict(opened.parameters),
        "matrix_formats": opened.matrix_formats,
        "config": asdict(opened.config),
        "chat_template": opened.chat_template,
        "metadata": dict(opened.metadata),
        "generation_defaults": dict(opened.generation_defaults),
        "tokenizer": values,
    }
    rest = json.dumps(known).encode() + b"\n" + tokenizer
    head = _FORMAT + blake3(rest).hexdigest().encode() + b"\n"
    try:
        if _files(opened.path) != files:
            return
        with new_file(own, [memoryview(head), memoryview(rest)]) as file:
            publish(file, own / FILE)
        _sweep(own)
    except OSError as error:
        log.debug("a prepared model is not kept", path=str(own), reason=str(error))


def _sweep(own: Path) -> None:
    """Removes what is of no use any more: of this model's earlier files, of models that are gone, of writers that died."""
    collect(own)
    for earlier in own.parent.iterdir():
        if earlier.name != own.name and len(earlier.name) == _DIGEST_CHARACTERS:
            shutil.rmtree(earlier, ignore_errors=True)
    for kept in own.parent.parent.glob(f"*-{'?' * _DIGEST_CHARACTERS}/{'?' * _DIGEST_CHARACTERS}/{FILE}"):
        with suppress(OSError, ValueError, KeyError):
            with kept.open("rb") as file:
                ours = file.readline(1 << 10).startswith(_FORMAT)
                source = json.loads(file.readline())["path"] if ours else None
            if source is not None and not os.path.exists(source):
                shutil.rmtree(kept.parent.parent, ignore_errors=True)


def _files(path: Path) -> Files:
    """The states of the model's files; of a directory, of all files in it: one that is new may have a say, too."""
    try:
        if not path.is_dir():
            return [_state("", path.stat())]
        with os.scandir(path) as entries:
            return sorted(_state(entry.name, entry.stat()) for entry in entries if entry.is_file())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _state(name: str, info: os.stat_result) -> list[Any]:
    return [name, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


@cache
def _reader() -> list[object]:
    """The code that reads models: what another version of it kept is not to be relied on."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return [tokenizers.__version__, *(f"{file.name} {_size_and_time(file)}" for file in sources)]


def _size_and_time(file: Path) -> str:
    info = file.stat()
    return f"{info.st_size} {info.st_mtime_ns}"


def _digest(text: str) -> str:
    return blake3(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARACTERS]


def _values(checkpoint: Checkpoint) -> dict[str, Any]:
    return {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}


def _config(values: dict[str, Any]) -> ModelConfig:
    """`asdict` and JSON undone: sequences are tuples."""
    rope = RopeConfig(**_with_tuples(values["rope"]))
    return ModelConfig(**_with_tuples(values) | {"rope": rope})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
