"""Models that read a text chunk by chunk and tell all they expect, without an engine around them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tiercel.config import EngineConfig
from tiercel.engine.build import layout_groups, load_checkpoint
from tiercel.engine.compute import resolve_compute
from tiercel.kv import Arena
from tiercel.models import load_model
from tiercel.platforms import detect
from tiercel.types import BLOCK_TOKENS, AttentionBatch, SamplingBatch, StepInput

Float32 = npt.NDArray[np.float32]


class Network:
    """A model with its weights in one format. Readings that differ in the format of their KV share it."""

    def __init__(self, config: EngineConfig) -> None:
        """Raises what building an engine raises."""
        self.checkpoint = load_checkpoint(config)
        compute = resolve_compute(config, self.checkpoint.config, detect())
        self.ops = compute.load()
        self.forward = load_model(self.checkpoint, self.ops, layout_groups(compute, self.checkpoint))


class Reading:
    """Reads one text after another, each from an empty cache."""

    def __init__(self, network: Network, config: EngineConfig, num_tokens: int) -> None:
        """config: says the format of the KV; num_tokens: of the longest text. Raises InvalidInput for what cannot be."""
        compute = resolve_compute(config, network.checkpoint.config, detect())
        groups = layout_groups(compute, network.checkpoint)
        self.token_bytes = sum(group.layout.token_bytes for group in groups)
        self._network = network
        self._num_blocks = -(-num_tokens // BLOCK_TOKENS)
        arena = Arena(groups, self._num_blocks)
        self._kv = tuple(network.ops.bind_kv(area, group.layout) for area, group in zip(arena.groups, groups, strict=True))
        self._arena = arena  # the handles have its memory's addresses, not its memory
        self._read = 0

    def begin(self) -> None:
        """Forgets what was read."""
        self._read = 0

    def read(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> Float32:
        """Logits of the token after each of these, [tokens, vocab]; they hold until the network reads again."""
        ops = self._network.ops
        step = self._step(np.array(token_ids, np.int32))
        self._read += len(token_ids)
        return np.asarray(self._network.forward(ops, ops.begin(step), self._kv), np.float32)

    def _step(self, token_ids: npt.NDArray[np.int32]) -> StepInput:
        count = len(token_ids)
        positions = np.arange(self._read, self._read + count, dtype=np.int32)
        batch = AttentionBatch(
            query_start=np.array([0, count], np.int32),
            q_positions=positions,
            block_tables=np.arange(self._num_blocks, dtype=np.int32)[None],
            lengths=np.array([self._read + count], np.int32),
            slot_mapping=positions.astype(np.int64),
        )
        groups = len(self._kv)
        every_row = SamplingBatch.greedy(np.arange(count, dtype=np.int32))
        return StepInput(token_ids, positions, (batch,) * groups, (np.empty((0, 2), np.int32),) * groups, every_row)
