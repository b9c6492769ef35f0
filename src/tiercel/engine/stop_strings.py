"""Finding stop strings in text that arrives piece by piece."""

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """An automaton that reads text one character at a time (Aho, Corasick: Efficient String Matching, 1975).

    A state is the longest end of the text so far with which some stop string begins; state 0 is none. Immutable: whoever reads
    a text keeps its state.

    depth: by state, its length: so much of the text could still turn out to belong to a stop string
    found: by state, the longest stop string that ends here, or None
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.depth = [0]
        self.found: list[str | None] = [None]
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # by state, the longest shorter state that the text also ends with
        for stop in stops:
            self._insert(stop)
        self._link()

    def step(self, state: int, character: str) -> int:
        """The state after one more character. Constant time on average over a text."""
        while character not in self._next[state]:
            if state == 0:
                return 0
            state = self._shorter[state]
        return self._next[state][character]

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self.depth.append(self.depth[state] + 1)
                self.found.append(None)
            state = self._next[state][character]
        self.found[state] = stop

    def _link(self) -> None:
        """Breadth first, so that the shorter states are complete before the longer ones refer to them."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, longer in self._next[state].items():
                self._shorter[longer] = self.step(self._shorter[state], character)
                self.found[longer] = self.found[longer] or self.found[self._shorter[longer]]
                waiting.append(longer)
