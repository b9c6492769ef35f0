"""How much of a prefix can be reused, given which blocks there are."""

from collections.abc import Callable, Sequence

from tiercel.types import BLOCK_TOKENS, BlockHash, KVGroup

Has = Callable[[int, BlockHash], bool]  # (group, block) -> is it there


def longest_match(groups: Sequence[KVGroup], links: Sequence[BlockHash], has: Has) -> int:
    """Most blocks n such that in every group all blocks are there that a row at position n * BLOCK_TOKENS can see."""
    limit = len(links)
    windowed = []
    for index, group in enumerate(groups):
        if group.window is None:
            limit = next((i for i in range(limit) if not has(index, links[i])), limit)
        else:
            windowed.append((index, window_blocks(group.window)))
    if not windowed:
        return limit
    best = 0
    runs = [0] * len(windowed)  # consecutive blocks found, up to the one looked at
    for number in range(limit):
        runs = [run + 1 if has(index, links[number]) else 0 for run, (index, _) in zip(runs, windowed, strict=True)]
        if all(run >= min(number + 1, needed) for run, (_, needed) in zip(runs, windowed, strict=True)):
            best = number + 1
    return best


def first_needed(group: KVGroup, num_blocks: int) -> int:
    """The first of `num_blocks` that the next row can see."""
    return 0 if group.window is None else max(0, num_blocks - window_blocks(group.window))


def window_blocks(window: int) -> int:
    """Blocks before a block boundary that hold the window of the first token after it."""
    return -(-(window - 1) // BLOCK_TOKENS)
