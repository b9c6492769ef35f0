"""Token ids to text, as they come: whole characters, and never a piece of a stop string."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tiercel.engine.stop_strings import StopStrings
from tiercel.models.tokenizer import Tokenizer
from tiercel.types import SamplingParams

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What some tokens added to the text.

    stop: the stop string that ended it, or None; num_tokens: how many of the given tokens were used, the last of them
    completing the stop string if there is one.
    """

    text: str
    stop: str | None
    num_tokens: int


class IncrementalDetokenizer:
    """The text of one sample. What has been given out is final, and does not depend on how the tokens were grouped.

    Bytes that do not make a whole character yet are kept back, as is text with which a stop string could begin. The stop string
    that is complete first ends the text; of several that end with the same character, the longest. Text of the first
    `min_tokens` tokens is not searched. A leading space is kept, also with SentencePiece vocabularies: the text continues a
    prompt. End-of-text and stop tokens are the engine's business: it does not pass them on.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._skip_special = params.skip_special_tokens
        self._include_stop = params.include_stop_str_in_output
        self._unsearched = params.min_tokens  # tokens to come whose text is not searched
        self._stops = _stop_strings(params.stop) if params.stop else None
        self._state = 0
        self._held = ""
        self._stop: str | None = None
        self._utf8 = _new_utf8_decoder(errors="replace")

    def feed(self, token_ids: Sequence[int]) -> TextDelta:
        """Takes in the next tokens. After a stop string nothing is used any more."""
        released: list[str] = []
        num_tokens = 0
        for token_id in token_ids:
            if self._stop is not None:
                break
            released.append(self._release(self._decode(token_id)))
            num_tokens += 1
        return TextDelta("".join(released), self._stop, num_tokens)

    def finish(self) -> str:
        """What is still kept back: the tokens are over. An unfinished character becomes U+FFFD."""
        rest = self._held + self._utf8.decode(b"", final=True) if self._stop is None else ""
        self._held, self._state = "", 0
        return rest

    def _decode(self, token_id: int) -> str:
        if self._skip_special and self._tokenizer.is_special(token_id):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def _release(self, text: str) -> str:
        """The part of the text so far that is certain to stay; looks for stop strings in what one token added."""
        if self._unsearched:
            self._unsearched -= 1
            return text
        if self._stops is None:
            return text
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            self._state = self._stops.step(self._state, character)
            self._stop = self._stops.found[self._state]
            if self._stop is not None:
                return pending[: end if self._include_stop else end - len(self._stop)]
        certain = len(pending) - self._stops.depth[self._state]
        self._held = pending[certain:]
        return pending[:certain]


@lru_cache(maxsize=16)
def _stop_strings(stops: tuple[str, ...]) -> StopStrings:
    """Shared by the samples of a request, and by requests that stop alike."""
    return StopStrings(stops)
