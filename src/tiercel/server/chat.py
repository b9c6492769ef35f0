"""Answers of POST /v1/chat/completions."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tiercel.engine.outputs import Delta, SampledToken, TokenLogprob
from tiercel.server.answers import Answer, Asked, Head, Tally, Usage, event, finite
from tiercel.server.cache_report import CacheReport


class ChatTopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatLogprob]
    refusal: None = None


class ChatMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(msgspec.Struct, tag_field="object", tag="chat.completion"):
    """The whole answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    tiercel: CacheReport | UnsetType = UNSET


class ChatDelta(msgspec.Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, tag_field="object", tag="chat.completion.chunk"):
    """One event of a stream. usage is there only where it was asked for: null, and a value in the last one, like tiercel."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    tiercel: CacheReport | UnsetType = UNSET


class ChatAnswer(Answer):
    """A stream names the role of each choice first, then its text, then why it ended, each in an event of its own."""

    def __init__(self, head: Head, num_samples: int, asked: Asked) -> None:
        super().__init__(head, num_samples, asked)
        self._begun: set[int] = set()

    def body(self, tally: Tally) -> bytes:
        choices = [
            ChatChoice(s.index, ChatMessage(s.text), _render(s.logprobs) if self.asked.logprobs else None, s.finish_reason)
            for s in self.samples
        ]
        head = self.head
        answer = ChatCompletion(head.id, head.created, head.model, choices, tally.usage(), self.report(tally))
        return msgspec.json.encode(answer)

    def events(self, choice: int, delta: Delta) -> bytes:
        events = b""
        if choice not in self._begun:
            self._begun.add(choice)
            events += self._event(ChatChunkChoice(choice, ChatDelta("assistant", "")))
        if delta.text or delta.logprobs:
            logprobs = _render(delta.logprobs) if self.asked.logprobs else None
            events += self._event(ChatChunkChoice(choice, ChatDelta(content=delta.text), logprobs))
        if delta.finish_reason is not None:
            events += self._event(ChatChunkChoice(choice, ChatDelta(), finish_reason=delta.finish_reason))
        return events

    def closing_event(self, usage: Usage | UnsetType, report: CacheReport | UnsetType) -> bytes:
        return event(ChatChunk(self.head.id, self.head.created, self.head.model, [], usage, report))

    def _event(self, choice: ChatChunkChoice) -> bytes:
        head = self.head
        return event(ChatChunk(head.id, head.created, head.model, [choice], None if self.asked.include_usage else UNSET))


def _render(tokens: Sequence[SampledToken]) -> ChatLogprobs:
    return ChatLogprobs([ChatLogprob(*_fields(t.chosen), [ChatTopLogprob(*_fields(top)) for top in t.top]) for t in tokens])


def _fields(token: TokenLogprob) -> tuple[str, float, list[int]]:
    return token.text, finite(token.logprob), list(token.bytes)
