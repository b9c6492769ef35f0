"""What a user gets back while and after a request runs."""

from dataclasses import dataclass, field
from typing import Literal

from tiercel.types import Reuse

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """One token of the vocabulary with its log probability. `bytes` are its exact bytes, `text` their best reading."""

    token_id: int
    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class SampledToken:
    """A sampled token's own log probability and the most likely alternatives, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass
class Delta:
    """What one sample of a request gained since its last delta. The last one has a finish_reason."""

    request_id: str
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None  # the stop string or stop token that ended it; None = end of text or length
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens whose KV was reused
    reuse: Reuse | None = None  # where they came from and why no more; in a sample's first delta only

    def extend(self, later: "Delta") -> None:
        """Joins the same sample's next delta to this one."""
        self.text += later.text
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs
        self.finish_reason = later.finish_reason
        self.stop_reason = later.stop_reason


@dataclass
class SampleOutput:
    """One finished (or growing) sample of a request."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass
class RequestOutput:
    """A whole request. Times are seconds since submission: of the first token, and of the last."""

    request_id: str
    prompt_token_ids: list[int]
    samples: list[SampleOutput]
    cached_tokens: int = 0
    reuse: Reuse | None = None
    time_to_first_token: float = 0.0
    time_total: float = 0.0

    @property
    def text(self) -> str:
        """Text of the first sample."""
        return self.samples[0].text

    def add(self, delta: Delta) -> None:
        """Appends a delta to the sample it belongs to."""
        sample = self.samples[delta.index]
        sample.text += delta.text
        sample.token_ids += delta.token_ids
        sample.logprobs += delta.logprobs
        sample.finish_reason = delta.finish_reason
        sample.stop_reason = delta.stop_reason
        self.cached_tokens = delta.cached_tokens
        self.reuse = self.reuse or delta.reuse

    @property
    def finished(self) -> bool:
        return all(s.finish_reason is not None for s in self.samples)
