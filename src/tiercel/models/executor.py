"""What computes a step: plain arrays in, plain arrays out."""

from collections.abc import Sequence
from typing import Protocol

from tiercel.kv import Arena
from tiercel.ops import Forward, Ops
from tiercel.types import KVGroup, StepInput, StepOutput


class Executor(Protocol):
    """The seam between the engine and whatever runs the model. Twins: `ModelExecutor`, `NullExecutor`."""

    def execute(self, step: StepInput) -> StepOutput:
        """Copies blocks, writes the step's KV, and samples a token for each entry of `step.sampling`."""


class ModelExecutor:
    """Runs a model on a back end. model: a description, or what the back end compiled it to."""

    def __init__(self, model: Forward, ops: Ops, groups: Sequence[KVGroup], arena: Arena) -> None:
        self.model = model
        self._ops = ops
        self._kv = tuple(ops.bind_kv(area, group.layout) for area, group in zip(arena.groups, groups, strict=True))

    def execute(self, step: StepInput) -> StepOutput:
        for kv, pairs in zip(self._kv, step.copies, strict=True):
            if len(pairs):
                self._ops.copy_blocks(kv, pairs)
        logits = self.model(self._ops, self._ops.begin(step), self._kv)
        return self._ops.sample(logits, step.sampling)
