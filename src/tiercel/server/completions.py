"""Answers of POST /v1/completions."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from tiercel.engine.outputs import Delta, SampledToken
from tiercel.server.answers import Answer, Asked, Head, Tally, Usage, event, finite
from tiercel.server.cache_report import CacheReport


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists, one entry per token. text_offset: characters before the token; top_logprobs: text -> log probability."""

    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] = []
    text_offset: list[int] = []


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(msgspec.Struct, tag_field="object", tag="text_completion"):
    """The whole answer, or one event of a stream (which has no usage unless it was asked for). tiercel: see `ChatChunk`."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    tiercel: CacheReport | UnsetType = UNSET


class CompletionAnswer(Answer):
    """echoes: the prompts' texts, put before the answers; empty texts where no echo was asked for."""

    def __init__(self, head: Head, echoes: Sequence[str], num_samples: int, asked: Asked) -> None:
        super().__init__(head, len(echoes) * num_samples, asked)
        self._echoes = [echo for echo in echoes for _ in range(num_samples)]
        self._offsets = [0] * len(self.samples)  # characters sent so far

    def body(self, tally: Tally) -> bytes:
        choices = [
            CompletionChoice(
                sample.index,
                self._echoes[sample.index] + sample.text,
                self._render(sample.index, sample.logprobs),
                sample.finish_reason,
            )
            for sample in self.samples
        ]
        return msgspec.json.encode(self._completion(choices, tally.usage(), self.report(tally)))

    def events(self, choice: int, delta: Delta) -> bytes:
        text = self._echoes[choice] + delta.text
        self._echoes[choice] = ""
        if not text and not delta.logprobs and delta.finish_reason is None:
            return b""
        logprobs = self._render(choice, delta.logprobs) if delta.logprobs else None
        choices = [CompletionChoice(choice, text, logprobs, delta.finish_reason)]
        return event(self._completion(choices, None if self.asked.include_usage else UNSET))

    def closing_event(self, usage: Usage | UnsetType, report: CacheReport | UnsetType) -> bytes:
        return event(self._completion([], usage, report))

    def _completion(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None, report: CacheReport | UnsetType = UNSET
    ) -> Completion:
        return Completion(self.head.id, self.head.created, self.head.model, choices, usage, report)

    def _render(self, choice: int, tokens: Sequence[SampledToken]) -> CompletionLogprobs | None:
        if not self.asked.logprobs:
            return None
        rendered = CompletionLogprobs()
        for token in tokens:
            rendered.tokens.append(token.chosen.text)
            rendered.token_logprobs.append(finite(token.chosen.logprob))
            rendered.top_logprobs.append({top.text: finite(top.logprob) for top in (*token.top, token.chosen)})
            rendered.text_offset.append(self._offsets[choice])
            self._offsets[choice] += len(token.chosen.text)
        return rendered
