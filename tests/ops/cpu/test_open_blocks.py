"""Places of raw blocks: one per unfinished block, whoever comes and goes."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.steps import PagedContexts
from tiercel.ops.cpu.open_blocks import OpenBlocks
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVGroup, KVLayout


class Contexts(RuleBasedStateMachine):
    """Contexts grow by chunks, several at a time. What a block holds is told by its first byte, written by the model below."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = KVLayout((0, 1), 1, 32, "int4", self.block_tokens)
        self.blocks = OpenBlocks(self.layout)
        self.paged = PagedContexts([KVGroup(self.layout)], num_blocks=4096)
        self.marks: dict[tuple[str, int], int] = {}
        self.count = 0

    block_tokens = BLOCK_TOKENS

    @rule(counts=st.dictionaries(st.sampled_from("abcdefghijklmnopqrst"), st.integers(1, 200), min_size=1))
    def step(self, counts: dict[str, int]) -> None:
        starts = {name: self.paged.lengths.get(name, 0) for name in counts}
        batch = self.paged.step({name: [0] * count for name, count in counts.items()}).groups[0]
        tables = self.blocks.enter(batch)
        assert self.blocks.enter(batch) is tables
        memory = self.blocks.memory.reshape(-1, self.blocks.block_bytes)
        used = []
        for request, (name, start) in enumerate(starts.items()):
            first, last = start // BLOCK_TOKENS, (start + counts[name] - 1) // BLOCK_TOKENS
            if start % BLOCK_TOKENS:
                assert memory[tables[request, 0], 0] == self.marks[name, first]
            for place, number in zip(tables[request], {first: 0, last: 1}, strict=False):
                self.count = (self.count + 1) % 251
                memory[place, 0] = self.marks[name, number] = self.count
                used.append(place)
        assert len(used) == len(set(used)), "two blocks share a place"

    @invariant()
    def holds_little_more_than_what_is_open(self) -> None:
        open_now = sum(length % BLOCK_TOKENS != 0 for length in self.paged.lengths.values())
        assert open_now <= len(self.blocks) <= 2 * len(self.paged.lengths)


class SmallBlocks(Contexts):
    block_tokens = 16


class LargeBlocks(Contexts):
    block_tokens = 128


for machine in (Contexts, SmallBlocks, LargeBlocks):
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestContexts, TestSmallBlocks, TestLargeBlocks = Contexts.TestCase, SmallBlocks.TestCase, LargeBlocks.TestCase


def batch_of(start: int, count: int, table: list[int]) -> AttentionBatch:
    positions = np.arange(start, start + count, dtype=np.int32)
    slots = np.array([table[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in positions], np.int64)
    ints = [np.array(x, np.int32) for x in ([0, count], [table], [start + count])]
    return AttentionBatch(ints[0], positions, ints[1], ints[2], slots)


def test_copies_follow_the_blocks_of_the_arena() -> None:
    blocks = OpenBlocks(KVLayout((0,), 1, 32, "int4"))
    place = blocks.enter(batch_of(0, 10, [7]))[0, 0]
    blocks.memory.reshape(-1, blocks.block_bytes)[place] = 5
    blocks.copy(np.array([[7, 9], [3, 4]], np.int32))  # block 3 has no raw copy, and needs none
    first = blocks.enter(batch_of(10, 1, [9]))[0, 0]
    second = blocks.enter(batch_of(10, 1, [7]))[0, 0]
    assert first != second == place
    assert (blocks.memory.reshape(-1, blocks.block_bytes)[first] == 5).all()


def test_a_context_cannot_go_on_in_a_block_that_is_not_here() -> None:
    blocks = OpenBlocks(KVLayout((0,), 1, 32, "int4"))
    with pytest.raises(KeyError):
        blocks.enter(batch_of(10, 1, [7]))


def test_scratch_has_room_for_the_blocks_between() -> None:
    blocks = OpenBlocks(KVLayout((0, 1), 1, 32, "int4"))
    blocks.enter(batch_of(0, 1000, list(range(16))))
    assert len(blocks.scratch) >= 1000 // BLOCK_TOKENS * blocks.layer_bytes
