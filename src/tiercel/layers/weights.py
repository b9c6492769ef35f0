"""Where layers get their weights."""

from collections.abc import Mapping
from typing import Protocol

from tiercel.ops import Handle


class WeightSource(Protocol):
    """Hands out packed weights by name. Quantisation, sharding or adapters come in here, unseen by layers and models."""

    def at(self, prefix: str) -> "WeightSource":
        """The weights whose names start with `prefix` and a dot."""

    def pack(self, shapes: Mapping[str, tuple[int, ...]], *, table: bool = False) -> Handle:
        """The named tensors, checked against their shapes and joined along their first dimension. table: see `Ops.pack`.

        Raises ModelError naming a tensor that is missing or has another shape.
        """
