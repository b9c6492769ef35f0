"""One sample of a request as the engine sees it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tiercel.engine.messages import Submit
from tiercel.kv import HashChain
from tiercel.types import Reuse, SamplingParams

if TYPE_CHECKING:
    from tiercel.engine.structured import GrammarMatcher


@dataclass(eq=False)
class Request:
    """A sequence of tokens that grows, one sample of what the user asked for.

    token_ids: prompt and output; num_computed_tokens: leading tokens whose KV is written; siblings: samples of the same prompt
    that start when its first token is sampled.
    """

    request_id: str
    index: int
    params: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    seed: int
    priority: int  # lower runs first, then earlier arrival
    arrival: int
    chain: HashChain
    stop_token_ids: frozenset[int]  # end of text, unless it is ignored, and the user's
    num_computed_tokens: int = 0
    reuse: Reuse | None = None  # what was reused at the first admission; None before it
    siblings: list["Request"] = field(default_factory=list)
    matcher: "GrammarMatcher | None" = None

    @cached_property
    def key(self) -> str:
        """The request's name inside the engine, unique among samples."""
        return f"{self.request_id}/{self.index}"

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were reused."""
        return self.reuse.device_tokens + self.reuse.stored_tokens if self.reuse is not None else 0

    @property
    def num_missing_tokens(self) -> int:
        """Known tokens still to be computed; 1 while decoding."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_decoding(self) -> bool:
        return self.num_missing_tokens == 1 and self.num_output_tokens > 0

    def __repr__(self) -> str:
        return f"<Request {self.key} {self.num_computed_tokens}/{self.num_tokens} tokens>"


def make_samples(submit: Submit, *, seed: int, arrival: int, chain: HashChain, eos_token_ids: tuple[int, ...]) -> Request:
    """The request's first sample; the others hang on it as siblings until its prompt is computed."""
    params = submit.params
    stops = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else frozenset(eos_token_ids))
    samples = [
        Request(
            request_id=submit.request_id,
            index=index,
            params=params,
            token_ids=list(submit.prompt_token_ids),
            num_prompt_tokens=len(submit.prompt_token_ids),
            seed=seed,
            priority=submit.priority,
            arrival=arrival,
            chain=chain.copy(),
            stop_token_ids=stops,
        )
        for index in range(params.n)
    ]
    samples[0].siblings = samples[1:]
    return samples[0]
