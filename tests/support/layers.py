"""The null model on blocks as real ones are: several layers, of which each takes more than a few bytes."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

from tests.support.engines import MakeExecutor
from tiercel.kv import Arena
from tiercel.models.null import NullExecutor, null_groups
from tiercel.types import BLOCK_TOKENS, KVGroup, KVLayout, StepInput, StepOutput

_TOKENS_BYTES = 2 * 4 * BLOCK_TOKENS  # of each frame, what the null model reads and writes


def layered_groups(num_layers: int, head_dim: int) -> list[KVGroup]:
    """One group without a window. A token takes 8 * head_dim bytes in each layer."""
    return [KVGroup(KVLayout(tuple(range(num_layers)), num_kv_heads=1, head_dim=head_dim))]


def layered_executor(vocab_size: int) -> MakeExecutor:
    return lambda groups, arena: LayeredExecutor(groups, arena, vocab_size)


class LayeredExecutor:
    """Every layer keeps the tokens and passes its fingerprint of them on to the next: one wrong frame gives other tokens."""

    def __init__(self, groups: Sequence[KVGroup], arena: Arena, vocab_size: int) -> None:
        self._depths = [len(group.layout.layers) for group in groups]
        windows = [group.window for group in groups for _ in group.layout.layers]
        frames = [
            area.reshape(-1, depth, group.layout.block_bytes // depth)[:, layer, :_TOKENS_BYTES]
            for area, group, depth in zip(arena.groups, groups, self._depths, strict=True)
            for layer in range(depth)
        ]
        self._null = NullExecutor(null_groups(windows), SimpleNamespace(groups=frames), vocab_size)

    def execute(self, step: StepInput) -> StepOutput:
        return self._null.execute(replace(step, groups=self._by_layer(step.groups), copies=self._by_layer(step.copies)))

    def _by_layer(self, by_group):
        return tuple(entry for entry, depth in zip(by_group, self._depths, strict=True) for _ in range(depth))
