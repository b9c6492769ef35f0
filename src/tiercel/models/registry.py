"""Architectures by name."""

from collections.abc import Callable
from typing import Protocol

from tiercel.layers import WeightSource
from tiercel.models.llama import Llama
from tiercel.models.mistral import Mistral
from tiercel.models.qwen2 import Qwen2
from tiercel.models.qwen3 import Qwen3
from tiercel.ops import Handle, Ops, StepHandles
from tiercel.types import ModelConfig


class Model(Protocol):
    """What an architecture makes of weights."""

    def __call__(self, ops: Ops, inputs: StepHandles, kv: tuple[Handle, ...]) -> Handle:
        """Logits [samples, vocab] of a step's sample rows. kv: one arena per group of `kv_groups`."""


ARCHITECTURES: dict[str, Callable[[ModelConfig, WeightSource, Ops], Model]] = {
    "llama": Llama,
    "mistral": Mistral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
}
