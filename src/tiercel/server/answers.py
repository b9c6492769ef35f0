"""What both kinds of answer share: who they are, what they used, and how one event of a stream is written."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, UnsetType

from tiercel.engine.outputs import Delta, SampleOutput
from tiercel.server.cache_report import CacheReport, prompt_cache
from tiercel.types import Reuse

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot write
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer repeats. created: seconds since 1970."""

    id: str
    created: int
    model: str


@dataclass(frozen=True)
class Asked:
    """What a client wants to know beside the text. include_usage: at the end of a stream; other answers always have it."""

    logprobs: bool = False
    include_usage: bool = False
    cache_report: bool = False


@dataclass
class Tally:
    """Tokens of one HTTP request so far. reuse: by number of the prompt; salted: see `prompt_cache`."""

    prompt_tokens: int
    salted: bool
    output_tokens: int = 0
    reuse: dict[int, Reuse] = field(default_factory=dict)

    @property
    def cached_tokens(self) -> int:
        return sum(reuse.prompt_tokens - reuse.computed_tokens for reuse in self.reuse.values())

    def add(self, prompt: int, delta: Delta) -> None:
        self.output_tokens += len(delta.token_ids)
        if delta.reuse is not None:
            self.reuse[prompt] = delta.reuse

    def usage(self) -> Usage:
        total = self.prompt_tokens + self.output_tokens
        return Usage(self.prompt_tokens, self.output_tokens, total, PromptTokensDetails(self.cached_tokens))

    def report(self) -> CacheReport:
        return CacheReport([prompt_cache(reuse, salted=self.salted) for _, reuse in sorted(self.reuse.items())])


class Answer(ABC):
    """Turns the deltas of one HTTP request into its response: collected into one body, or as server-sent events.

    A choice is one sample of one prompt: number prompt * n + sample.
    """

    def __init__(self, head: Head, num_choices: int, asked: Asked) -> None:
        self.head = head
        self.asked = asked
        self.samples = [SampleOutput(index) for index in range(num_choices)]

    def collect(self, choice: int, delta: Delta) -> None:
        """Keeps a delta for `body`."""
        sample = self.samples[choice]
        sample.text += delta.text
        sample.token_ids += delta.token_ids
        sample.logprobs += delta.logprobs
        sample.finish_reason = delta.finish_reason

    @abstractmethod
    def body(self, tally: Tally) -> bytes:
        """The whole answer, from what was collected."""

    @abstractmethod
    def events(self, choice: int, delta: Delta) -> bytes:
        """The events that tell of a delta; empty where there is nothing to tell yet."""

    @abstractmethod
    def closing_event(self, usage: Usage | UnsetType, report: CacheReport | UnsetType) -> bytes:
        """The event that closes a stream whose client asked for usage or report."""

    def last_events(self, tally: Tally) -> bytes:
        """What follows the last delta."""
        usage = tally.usage() if self.asked.include_usage else UNSET
        report = self.report(tally)
        return (b"" if usage is report is UNSET else self.closing_event(usage, report)) + DONE

    def report(self, tally: Tally) -> CacheReport | UnsetType:
        """The report, where it was asked for."""
        return tally.report() if self.asked.cache_report else UNSET


def event(data: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
