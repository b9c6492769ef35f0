"""What is measured: the time of one request, and the summary of several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import NamedTuple, Protocol

from tiercel.engine import LLM
from tiercel.types import SamplingParams

Say = Callable[[str], None]  # told what is under way


class Generation(NamedTuple):
    """One request's tokens, and when they came. first: seconds to the first token (TTFT); rest: seconds for the others."""

    token_ids: list[int]
    first: float
    rest: float

    @property
    def per_token(self) -> float:
        """Seconds for each token after the first (TPOT); 0 where there was none."""
        return self.rest / (len(self.token_ids) - 1) if len(self.token_ids) > 1 else 0.0


class Subject(Protocol):
    """A program whose speed is measured."""

    name: str

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        """Generates exactly `num_tokens` tokens greedily, alone."""


class TiercelSubject:
    """This engine."""

    name = "tiercel"

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        start = perf_counter()
        deltas = self._llm.stream(prompt, fixed_length(num_tokens))
        token_ids = list(next(deltas).token_ids)
        first = perf_counter()
        for delta in deltas:
            token_ids += delta.token_ids
        return Generation(token_ids, first - start, perf_counter() - first)


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        return cls(tuple(values))

    @classmethod
    def once(cls, value: float) -> "Summary":
        return cls((value,))

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def scaled(self, factor: float) -> "Summary":
        return Summary(tuple(value * factor for value in self.values))

    def over(self, other: "Summary") -> "Summary":
        """Ratios run by run: what slowed both down at the same time cancels out."""
        return Summary(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


def fixed_length(num_tokens: int) -> SamplingParams:
    """Greedy, exactly so many tokens."""
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
