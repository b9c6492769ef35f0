"""Structured output: which tokens may come next, so that the text fits a schema, an expression or a grammar. By llguidance."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tiercel.models.tokenizer import Tokenizer
from tiercel.types import InvalidInput, StructuredOutput
from tiercel.types.structured import StructureKind

if TYPE_CHECKING:
    from llguidance import LLMatcher

UInt32 = npt.NDArray[np.uint32]

_CACHED_GRAMMARS = 64
_LEXER_FUEL = 200_000  # llguidance's unit of work on a grammar's expressions; about 0.1 s, its own default is five times that
_MESSAGE_CHARACTERS = 300


class GrammarMatcher:
    """Follows one sample through its grammar. Not shared between samples.

    Where the grammar is at its end, only end-of-text is allowed; so too where llguidance gives up on a grammar that became too
    complex, which ends the text early.
    """

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def mask(self) -> UInt32:
        """The tokens that may come next, one bit each: [ceil(vocab / 32)], token t at bit t % 32 of word t / 32."""
        return np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)

    def advance(self, token_id: int) -> None:
        """Takes in the token that was sampled. End-of-text leaves the matcher where it is."""
        self._matcher.consume_token(token_id)


class GrammarCompiler:
    """Makes matchers for one vocabulary. Grammars in use are kept compiled.

    vocab_size: of the model's logits, where it is more than the tokenizer knows. Raises InvalidInput where llguidance is not
    installed or the model names no end-of-text token.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        try:
            import llguidance
        except ImportError:
            raise InvalidInput("structured", "needs llguidance: pip install 'tiercel[structured]'") from None
        if not tokenizer.eos_token_ids:
            raise InvalidInput("structured", "needs a model with an end-of-text token, and this one names none")
        vocabulary = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size or tokenizer.vocab_size))
        self._llguidance = llguidance
        self._vocabulary = llguidance.LLTokenizer(vocabulary, eos_token=list(tokenizer.eos_token_ids))
        self._limits = llguidance.LLParserLimits(initial_lexer_fuel=_LEXER_FUEL, verbose_errors=False)
        self._compiled = lru_cache(_CACHED_GRAMMARS)(self._compile)

    def compile(self, structured: StructuredOutput) -> GrammarMatcher:
        """A new matcher at the beginning of the grammar. Raises InvalidInput naming the field that holds it."""
        return GrammarMatcher(self._compiled(structured).deep_copy())

    def _compile(self, structured: StructuredOutput) -> "LLMatcher":
        try:
            grammar = self._grammar(structured)
            matcher = self._llguidance.LLMatcher(self._vocabulary, grammar, log_level=0, limits=self._limits)
        except ValueError as error:
            raise _unusable(structured.kind, str(error)) from None
        matcher.compute_bitmask()  # finds grammars that no text satisfies
        if matcher.is_error():
            hopeless = matcher.stop_reason().startswith("NoExtension")
            raise _unusable(structured.kind, "no text fits it" if hopeless else matcher.get_error())
        return matcher

    def _grammar(self, structured: StructuredOutput) -> str:
        """The grammar in llguidance's own form."""
        form = self._llguidance.LLMatcher
        if structured.json_schema is not None:
            return form.grammar_from_json_schema(structured.json_schema)
        if structured.regex is not None:
            return form.grammar_from_regex(structured.regex)
        if structured.choice is not None:
            return form.grammar_from_lark("start: " + " | ".join(map(json.dumps, structured.choice)))
        if structured.grammar is not None:
            return form.grammar_from_lark(structured.grammar)
        return form.grammar_from_json_schema({"type": "object"})


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        ends = tokenizer.eos_token_ids
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = [t for t in range(vocab_size) if tokenizer.is_special(t) or t in ends]
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_token_id
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False, parse_special=False)


def _unusable(kind: StructureKind, reason: str) -> InvalidInput:
    return InvalidInput(f"structured.{kind}", f"cannot be used: {' '.join(reason.split())[:_MESSAGE_CHARACTERS]}")
