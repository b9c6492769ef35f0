"""Weights by name, and the fingerprint of their content."""

from collections.abc import Callable

import numpy as np
import pytest
from blake3 import blake3

from tiercel.models.weights import StoredTensor, StoredWeights, fingerprint, inheritance, inherited
from tiercel.types import FORMATS, Weight


def stored(values: list[float], format: str = "F32") -> StoredTensor:
    return StoredTensor(np.array(values, np.float32).view(np.uint8), format, (len(values),))


def weights(**values: list[float]) -> dict[str, Weight]:
    return {name: Weight(np.array(v, np.float32).view(np.uint8), FORMATS["F32"], (len(v),)) for name, v in values.items()}


def test_finish_changes_weights_by_name() -> None:
    def double(name: str, weight: Weight) -> Weight:
        if name != "a":
            return weight
        return Weight((2 * weight.data.view(np.float32)).view(np.uint8), weight.format, weight.shape)

    found = StoredWeights("here", {"a": stored([1.0, 2.0]), "b": stored([3.0])}, double)
    assert {name: weight.data.view(np.float32).tolist() for name, weight in found.items()} == {"a": [2.0, 4.0], "b": [3.0]}


def test_fingerprint_is_blake3_of_a_written_down_form() -> None:
    content = b"'a' F32 (2,)\n" + np.array([1.0, 2.0], np.float32).tobytes() + b"'b' F32 (1,)\n" + np.float32(3.0).tobytes()
    assert fingerprint(weights(b=[3.0], a=[1.0, 2.0])) == blake3(content).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w | weights(a=[1.0, 2.5]),
        lambda w: w | weights(c=[0.0]),
        lambda w: {"a": w["b"], "b": w["a"]},
        lambda w: w | {"a": Weight(w["a"].data, FORMATS["F32"], (2, 1))},
        lambda w: w | {"a": Weight(w["a"].data, FORMATS["F16"], (4,))},
        lambda w: {"a": w["a"]},
    ],
)
def test_fingerprint_sees_every_change(change: Callable[[dict[str, Weight]], dict[str, Weight]]) -> None:
    base = weights(a=[1.0, 2.0], b=[3.0])
    assert fingerprint(change(base)) != fingerprint(base)


def test_fingerprint_ignores_order_and_where_bytes_lie() -> None:
    base = weights(a=[1.0, 2.0], b=[3.0])
    assert fingerprint(dict(reversed(base.items()))) == fingerprint(weights(b=[3.0], a=[1.0, 2.0])) == fingerprint(base)


def test_a_copy_inherits_while_it_is_what_was_written() -> None:
    own, origin = fingerprint(weights(a=[1.0])), fingerprint(weights(a=[2.0]))
    assert inherited(own, {"format": "pt", **inheritance(origin, own)}) == origin
    for metadata in ({}, inheritance(origin, origin), inheritance("", own), inheritance(origin.upper(), own)):
        assert inherited(own, metadata) == own
