"""What both kinds of answer share: who they are, what they used, and how one event of a stream is written."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import msgspec

from tiercel.engine.outputs import Delta, SampleOutput

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


@dataclass
class Tally:
    """Tokens of one HTTP request so far."""

    prompt_tokens: int
    output_tokens: int = 0
    cached_by_prompt: dict[int, int] = field(default_factory=dict)

    @property
    def cached_tokens(self) -> int:
        return sum(self.cached_by_prompt.values())

    def add(self, prompt: int, delta: Delta) -> None:
        self.output_tokens += len(delta.token_ids)
        self.cached_by_prompt[prompt] = delta.cached_tokens

    def usage(self) -> Usage:
        total = self.prompt_tokens + self.output_tokens
        return Usage(self.prompt_tokens, self.output_tokens, total, PromptTokensDetails(self.cached_tokens))


class Answer(ABC):
    """Turns the deltas of one HTTP request into its response: collected into one body, or as server-sent events.

    A choice is one sample of one prompt: number prompt * n + sample.
    """

    def __init__(self, head: Head, num_choices: int, *, include_usage: bool = False) -> None:
        self.head = head
        self.include_usage = include_usage
        self.samples = [SampleOutput(index) for index in range(num_choices)]

    def collect(self, choice: int, delta: Delta) -> None:
        """Keeps a delta for `body`."""
        sample = self.samples[choice]
        sample.text += delta.text
        sample.token_ids += delta.token_ids
        sample.logprobs += delta.logprobs
        sample.finish_reason = delta.finish_reason

    @abstractmethod
    def body(self, usage: Usage) -> bytes:
        """The whole answer, from what was collected."""

    @abstractmethod
    def events(self, choice: int, delta: Delta) -> bytes:
        """The events that tell of a delta; empty where there is nothing to tell yet."""

    @abstractmethod
    def usage_event(self, usage: Usage) -> bytes:
        """The event that closes a stream whose client asked for usage."""

    def last_events(self, usage: Usage) -> bytes:
        return (self.usage_event(usage) if self.include_usage else b"") + DONE


def event(data: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
