"""Structured output: whatever a model would say, what it may say has the form that was asked for."""

import json
import re
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.support.model_files import smollm2
from tests.support.steps import greedy
from tiercel.engine.detokenizer import IncrementalDetokenizer
from tiercel.engine.structured import GrammarCompiler, GrammarMatcher
from tiercel.models.gguf_tokenizer import read_tokenizer
from tiercel.models.tokenizer import Tokenizer
from tiercel.ops.sampling import sample
from tiercel.types import InvalidInput, SamplingParams, StructuredOutput

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "grün", '青 "quoted"']}, "minItems": 1, "maxItems": 3},
        "nested": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "nested"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@cache
def tokenizer() -> Tokenizer:
    return read_tokenizer(smollm2())


@cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer())


def matcher(**form: object) -> GrammarMatcher:
    return compiler().compile(StructuredOutput(**form))


def allowed(under_test: GrammarMatcher) -> list[int]:
    """Token ids by the definition of the mask's words."""
    words = under_test.mask()
    assert words.dtype == np.uint32
    return [32 * i + bit for i, word in enumerate(words.tolist()) if word for bit in range(32) if word >> bit & 1]


def allowed_texts(under_test: GrammarMatcher) -> set[bytes]:
    return {tokenizer().token_bytes(token_id) for token_id in allowed(under_test)}


def wander(under_test: GrammarMatcher, rng: np.random.Generator, limit: int = 400) -> str:
    """Text of a model without a thought of its own: every allowed token is equally likely, until the end of text."""
    text = IncrementalDetokenizer(tokenizer(), SamplingParams())
    said = ""
    for _ in range(limit):
        logits = rng.standard_normal((1, tokenizer().vocab_size), dtype=np.float32)
        batch = replace(greedy([0]), logits_mask=under_test.mask()[np.newaxis])
        token_id = int(sample(logits, batch).token_ids[0])
        under_test.advance(token_id)
        if token_id in tokenizer().eos_token_ids:
            return said + text.finish()
        said += text.feed([token_id]).text
    raise AssertionError(f"no end after {limit} tokens: {said!r}")


@pytest.mark.parametrize("seed", range(12))
def test_a_schema_holds_whatever_is_sampled(seed: int) -> None:
    value = json.loads(wander(matcher(json_schema=SCHEMA), np.random.default_rng(seed)))
    assert list(value) == ["name", "age", "tags", "nested"]
    assert re.fullmatch("[A-Z][a-z]{1,8}", value["name"])
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 120
    assert 1 <= len(value["tags"]) <= 3
    assert set(value["tags"]) <= {"red", "grün", '青 "quoted"'}
    assert value["nested"] in ({"ok": True}, {"ok": False})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "pattern", [r"[a-f]{3,9}-\d{2}", r"(yes|no|maybe), (sir|madam)!", r"(été|日本|🦊){1,5}\.", r"[^a]{1,6}a"]
)
def test_all_of_the_text_matches_the_expression(pattern: str, seed: int) -> None:
    assert re.fullmatch(pattern, wander(matcher(regex=pattern), np.random.default_rng(seed)))


def test_every_choice_can_be_made_and_no_other() -> None:
    choices = ["ab", "abc", 'q"u\\o', "two\nlines", "😀é", "{}"]
    rng = np.random.default_rng(0)
    assert {wander(matcher(choice=choices), rng) for _ in range(60)} == set(choices)


def test_a_grammar_with_recursion() -> None:
    balanced = matcher(grammar='start: pair\npair: "(" pair ")" | "x"')
    text = wander(balanced, np.random.default_rng(3))
    assert re.fullmatch(r"\(*x\)*", text)
    assert text.count("(") == text.count(")")


def test_any_json_object() -> None:
    under_test = matcher(json_object=True)
    assert b"{" in allowed_texts(under_test)
    assert not {b"[", b'"', b"1", b"t"} & allowed_texts(under_test)
    for token_id in tokenizer().encode('{"a": [1, {"b": null}], "c": "d"}'):
        assert token_id in allowed(under_test)
        under_test.advance(token_id)
    assert set(tokenizer().eos_token_ids) <= set(allowed(under_test))


def test_the_end_is_allowed_where_the_text_could_end() -> None:
    under_test, ends = matcher(regex="ab?"), set(tokenizer().eos_token_ids)
    assert len(ends) == 2
    assert allowed_texts(under_test) == {b"a", b"ab"}
    under_test.advance(tokenizer().encode("a")[0])
    assert set(allowed(under_test)) == ends | set(tokenizer().encode("b"))
    under_test.advance(tokenizer().encode("b")[0])
    assert set(allowed(under_test)) == ends
    under_test.advance(min(ends))  # and stays so where the end is ignored
    assert set(allowed(under_test)) == ends


def test_names_of_special_tokens_are_not_markup_inside_a_text() -> None:
    name = "<|im_end|>"
    (end,) = tokenizer().encode(name)
    assert end in tokenizer().eos_token_ids
    under_test = matcher(choice=[name])
    for token_id in tokenizer().encode(name, parse_special=False):
        assert end not in allowed(under_test)
        under_test.advance(token_id)
    assert end in allowed(under_test)


def test_matchers_of_one_grammar_are_independent() -> None:
    first, second = matcher(choice=["a", "b"]), matcher(choice=["a", "b"])
    first.advance(tokenizer().encode("a")[0])
    assert allowed_texts(second) == {b"a", b"b"}


def test_a_token_that_does_not_fit_ends_the_text() -> None:
    under_test = matcher(choice=["a", "b"])
    under_test.advance(tokenizer().encode("z")[0])
    assert set(allowed(under_test)) == set(tokenizer().eos_token_ids)


def test_a_model_with_more_logits_than_tokens() -> None:
    wide = GrammarCompiler(tokenizer(), tokenizer().vocab_size + 100).compile(StructuredOutput(regex="(.|\n)*"))
    assert len(wide.mask()) == (tokenizer().vocab_size + 100 + 31) // 32
    assert max(allowed(wide)) < tokenizer().vocab_size


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ({"json_schema": {"type": "foo"}}, "json_schema"),
        ({"json_schema": {"$ref": "#/missing"}}, "json_schema"),
        ({"json_schema": {"$ref": "https://example.com/schema"}}, "json_schema"),
        ({"json_schema": {"$ref": "#"}}, "json_schema"),  # endless
        ({"json_schema": {"type": "object", "properties": {"a": False}, "required": ["a"]}}, "json_schema"),
        ({"json_schema": {"const": "\ud800"}}, "json_schema"),
        ({"json_schema": {"x-guidance": 5}}, "json_schema"),
        ({"regex": "(a"}, "regex"),
        ({"regex": "(?=a)b"}, "regex"),
        ({"regex": r"[^\s\S]"}, "regex"),  # fits nothing
        ({"grammar": "start: missing"}, "grammar"),
        ({"grammar": "hello"}, "grammar"),
        ({"grammar": "\x00"}, "grammar"),
    ],
)
def test_grammars_that_cannot_be_used(form: dict[str, object], kind: str) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be used: \S") as caught:
        matcher(**form)
    assert caught.value.field == f"structured.{kind}"
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_hostile_expression_ends_early_rather_than_never() -> None:
    """10^9 times the same letter: more than llguidance keeps track of."""
    text = wander(matcher(regex="((a{1000}){1000}){1000}"), np.random.default_rng(0))
    assert set(text) <= {"a"}


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidInput, match=r"pip install 'tiercel\[structured\]'"):
        GrammarCompiler(tokenizer())


def test_without_an_end_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(), "eos_token_ids", ())
    with pytest.raises(InvalidInput, match="end-of-text"):
        GrammarCompiler(tokenizer())
