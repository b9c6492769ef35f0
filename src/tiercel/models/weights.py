"""Tensors as they lie in files, handed out as weights."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiercel.types import FORMATS, CheckpointError, Weight

_ORIGIN, _CONTENT = "tiercel.fingerprint", "tiercel.content"  # keys in a file's metadata
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor of a file. `format` may be one that no back end can read; bytes are then unchecked.

    data: uint8 [bytes], a view of the mapped file; shape: row-major.
    """

    data: npt.NDArray[np.uint8]
    format: str
    shape: tuple[int, ...]


class StoredWeights(Mapping[str, Weight]):
    """Weights by name, made when asked for. Only names in readable formats are listed; asking for another is an error.

    finish: changes a weight on its way out, by name.
    """

    def __init__(
        self,
        source: str,
        tensors: Mapping[str, StoredTensor],
        finish: Callable[[str, Weight], Weight] | None = None,
    ) -> None:
        self._source = source
        self._tensors = tensors
        self._finish = finish

    def __getitem__(self, name: str) -> Weight:
        tensor = self._tensors[name]
        if not _readable(tensor):
            raise CheckpointError(
                f"{self._source}: {name} is stored as {tensor.format} {list(tensor.shape)}; "
                f"readable are arrays of the formats {', '.join(FORMATS)}"
            )
        weight = Weight(tensor.data, FORMATS[tensor.format], tensor.shape)
        return self._finish(name, weight) if self._finish else weight

    def __iter__(self) -> Iterator[str]:
        return (name for name, tensor in self._tensors.items() if _readable(tensor))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _readable(tensor: StoredTensor) -> bool:
    return tensor.format in FORMATS and len(tensor.shape) > 0


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """A file's bytes, read from disk as they are touched. Raises CheckpointError."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty")
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def fingerprint(weights: Mapping[str, Weight]) -> str:
    """Hex BLAKE3 over names, formats, shapes and bytes, in the order of the names. Holds one weight at a time."""
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)

    def add(name: str, weight: Weight) -> None:
        hasher.update(f"{name!a} {weight.format.name} {weight.shape}\n".encode())
        hasher.update(weight.data.data)

    for name in sorted(weights):
        add(name, weights[name])
    return hasher.hexdigest()


def inheritance(origin: str, content: str) -> dict[str, str]:
    """What the file of a copy says about itself. origin: fingerprint of the original; content: of the copy's own weights."""
    return {_ORIGIN: origin, _CONTENT: content}


def inherited(own: str, metadata: Mapping[str, str]) -> str:
    """The fingerprint of the original if a file says that it is a copy, and still has the content it was written with.

    own: fingerprint of the weights as they are, and the answer for any other file.
    """
    origin = metadata.get(_ORIGIN, "")
    return origin if metadata.get(_CONTENT) == own and _HEX.fullmatch(origin) else own
