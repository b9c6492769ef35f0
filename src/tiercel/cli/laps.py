"""Where the time goes between the start of this process and its first token."""

import os
import time
from collections.abc import Callable
from pathlib import Path

Note = Callable[[str], None]  # told of each phase when it ends


def ignore(phase: str) -> None:
    """The `Note` of who does not want to know."""


class Laps:
    """Seconds by phase, since the process began."""

    def __init__(self) -> None:
        self._last = time.perf_counter() - _age()
        self.seconds: dict[str, float] = {}

    def note(self, phase: str) -> None:
        """The phase ends now. It began when the one before it ended."""
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now

    def __str__(self) -> str:
        parts = " + ".join(f"{phase} {seconds:.3f}" for phase, seconds in self.seconds.items())
        return f"first token {sum(self.seconds.values()):.3f} s after the start of the process = {parts}"


def _age() -> float:
    """Seconds since this process was started, to a hundredth; since Python was, where the system does not tell."""
    try:
        stat = Path("/proc/self/stat").read_text()
        ticks = int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5), "starttime"
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
