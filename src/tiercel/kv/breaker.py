"""Stops asking a store that fails, and asks again after a while."""

from collections.abc import Callable
from time import monotonic

FAILURES = 3  # in a row
FIRST_PAUSE = 1.0  # seconds; doubled each time the store fails again
LONGEST_PAUSE = 60.0


class Breaker:
    """Open after `FAILURES` failures in a row: then nothing is asked for a while; one success closes it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the store should be left alone now."""
        return self._clock() < self._open_until

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._open_until = 0.0

    def failed(self) -> bool:
        """Returns whether this failure opened the breaker."""
        self._failures += 1
        if self._failures < FAILURES or self.is_open:
            return False
        self._open_until = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return True
