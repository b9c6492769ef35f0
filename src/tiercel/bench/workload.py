"""Prompts of random token ids: nothing in them was ever computed before, unless they share a prefix on purpose."""

from collections.abc import Sequence

import numpy as np

# Ids below this are left out: tokenizers keep their special tokens there.
FIRST_ORDINARY_TOKEN = 256


class Workload:
    """A stream of prompts, the same for the same seed."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._tokens = (min(FIRST_ORDINARY_TOKEN, vocab_size // 2), vocab_size)

    def prompt(self, length: int, prefix: Sequence[int] = ()) -> list[int]:
        """`prefix` and then fresh tokens, `length` in all."""
        fresh: list[int] = self._rng.integers(*self._tokens, size=length - len(prefix)).tolist()
        return [*prefix, *fresh]

    def prompts(self, count: int, length: int, shared: int = 0) -> list[list[int]]:
        """`count` prompts of one length that share their first tokens."""
        prefix = self.prompt(shared)
        return [self.prompt(length, prefix) for _ in range(count)]
