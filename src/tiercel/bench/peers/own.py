"""Tiercel as one of those that are compared: in a process of its own, like all of them. Started by `foreign/serve.py`."""

from typing import Any

from tiercel.bench.measure import TiercelSubject, fixed_length
from tiercel.engine import LLM


class Peer:
    """program: means nothing here; settings: of the engine."""

    def __init__(self, program: str, model: str, threads: int, **settings: Any) -> None:
        self._llm = LLM(model, threads=threads, **settings)

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, float]]:
        if len(prompts) == 1:
            done = TiercelSubject(self._llm).generate(prompts[0], num_tokens)
            return [(done.first, done.first + done.rest)]
        outputs = self._llm.generate(prompts, fixed_length(num_tokens))
        return [(output.time_to_first_token, output.time_total) for output in outputs]

    def keep(self) -> None:
        """Waits until everything is on disk."""
        self._llm.flush()

    def recall(self) -> None:
        """What is on disk comes back when a prompt asks for it."""
