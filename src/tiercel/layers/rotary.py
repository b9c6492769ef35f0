"""Rotary position embedding (Su et al., arXiv:2104.09864)."""

from tiercel.ops import Handle, Ops
from tiercel.types import RopeConfig


class Rotary:
    """Rotates heads by position; one table for all layers."""

    def __init__(self, ops: Ops, rope: RopeConfig, max_position: int) -> None:
        self._table = ops.pack_rope(rope, max_position)

    def __call__(self, ops: Ops, x: Handle, positions: Handle) -> Handle:
        return ops.rope(x, positions, self._table)
