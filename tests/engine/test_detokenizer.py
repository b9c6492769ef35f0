"""Text comes out whole and final, however the tokens are grouped."""

import codecs
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.model_files import TEXTS, smollm2
from tiercel.engine.detokenizer import IncrementalDetokenizer, TextDelta
from tiercel.models.gguf_tokenizer import read_tokenizer
from tiercel.types import SamplingParams


class FakeTokenizer:
    """Token i stands for pieces[i]; the ids in `special` are markup."""

    def __init__(self, pieces, special=()):
        self.pieces, self.special = pieces, special

    def token_bytes(self, token_id):
        return self.pieces[token_id]

    def is_special(self, token_id):
        return token_id in self.special


def detokenizer(pieces, special=(), **fields):
    return IncrementalDetokenizer(FakeTokenizer(pieces, special), SamplingParams(max_tokens=None, **fields))


def feed_each(under_test, count):
    """Deltas of tokens 0 .. count - 1, fed one by one."""
    return [under_test.feed([token_id]) for token_id in range(count)]


# -- against the whole text -------------------------------------------------------------------------------------------------

# Letters that make overlapping stop strings likely, characters of two to four bytes, and bytes that are no UTF-8
PIECES = [b"a", b"b", b"ab", b"aab", b"", b" ", "é".encode(), b"\xe2", b"\x82", b"\xac", "a€b".encode(), "😀".encode()[:2]]
PIECES += ["😀".encode()[2:], b"\xff", b"<eos>"]
SPECIAL = {len(PIECES) - 1}
ALPHABET = "aabb é€😀\ufffd"

TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=25)
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4)


def decoded(token_ids, skip_special):
    """The characters that are certain after some tokens."""
    data = b"".join(PIECES[i] for i in token_ids if not (skip_special and i in SPECIAL))
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def whole_text(token_ids, params):
    """(text, stop, tokens used), from all of the text at once."""
    after = [decoded(token_ids[:k], params.skip_special_tokens) for k in range(len(token_ids) + 1)]
    start = len(after[min(params.min_tokens, len(token_ids))])
    for end in range(start + 1, len(after[-1]) + 1):
        ending = [stop for stop in params.stop if after[-1][start:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            used = next(k for k, text in enumerate(after) if len(text) >= end)
            return after[-1][: end if params.include_stop_str_in_output else end - len(stop)], stop, used
    kept = [i for i in token_ids if not (params.skip_special_tokens and i in SPECIAL)]
    return b"".join(PIECES[i] for i in kept).decode("utf-8", "replace"), None, len(token_ids)


@given(TOKENS, st.lists(st.integers(0, 25)), STOPS, st.integers(0, 6), st.booleans(), st.booleans())
@example([0, 0, 1], [1, 2], ["ab", "aab"], 0, False, True)
@example([7, 8, 9], [], ["€"], 2, False, True)
def test_any_grouping_gives_the_text_cut_at_the_stop(token_ids, cuts, stops, min_tokens, include, skip):
    params = SamplingParams(
        max_tokens=None, stop=stops, min_tokens=min_tokens, include_stop_str_in_output=include, skip_special_tokens=skip
    )
    under_test = IncrementalDetokenizer(FakeTokenizer(PIECES, SPECIAL), params)
    marks = sorted({0, len(token_ids), *(c for c in cuts if c < len(token_ids))})
    text, stop, used = "", None, 0
    for begin, end in pairwise(marks):
        delta = under_test.feed(token_ids[begin:end])
        text, stop, used = text + delta.text, delta.stop, used + delta.num_tokens
    assert (text + under_test.finish(), stop, used) == whole_text(token_ids, params)


@given(TOKENS, STOPS, st.integers(0, 6))
def test_no_more_is_held_back_than_could_be_a_stop(token_ids, stops, min_tokens):
    params = SamplingParams(max_tokens=None, stop=stops, min_tokens=min_tokens)
    under_test, text = IncrementalDetokenizer(FakeTokenizer(PIECES, SPECIAL), params), ""
    for k, token_id in enumerate(token_ids, start=1):
        delta = under_test.feed([token_id])
        text += delta.text
        if delta.stop is not None:
            break
        so_far = decoded(token_ids[:k], True)
        searched = so_far[len(decoded(token_ids[: min(k, min_tokens)], True)) :]
        beginnings = {stop[:n] for stop in stops for n in range(len(stop))}
        held = max(n for n in range(len(searched) + 1) if searched[len(searched) - n :] in beginnings or n == 0)
        assert text == so_far[: len(so_far) - held]


# -- single cases -----------------------------------------------------------------------------------------------------------


def test_characters_split_over_tokens_come_whole():
    under_test = detokenizer([b"x\xf0", b"\x9f", b"\x98", b"\x80y"])
    assert [delta.text for delta in feed_each(under_test, 4)] == ["x", "", "", "😀y"]
    assert under_test.finish() == ""


def test_an_unfinished_character_is_replaced_at_the_end():
    under_test = detokenizer([b"x\xf0\x9f"])
    assert under_test.feed([0]) == TextDelta("x", None, 1)
    assert under_test.finish() == "\ufffd"
    assert under_test.finish() == ""


def test_a_beginning_of_a_stop_is_released_once_it_is_none():
    under_test = detokenizer([b"Hi\n", b"\nUser", b"s"], stop="\n\nUser:")
    assert [delta.text for delta in feed_each(under_test, 3)] == ["Hi", "", "\n\nUsers"]


def test_a_beginning_of_a_stop_is_released_at_the_end():
    under_test = detokenizer([b"Hi\n"], stop="\n\n")
    assert under_test.feed([0]).text == "Hi"
    assert under_test.finish() == "\n"


@pytest.mark.parametrize(("include", "text"), [(False, "one"), (True, "one END")])
def test_a_stop_over_several_tokens(include, text):
    under_test = detokenizer([b"one", b" E", b"ND, and", b" more"], stop=[" END"], include_stop_str_in_output=include)
    assert under_test.feed([0, 1]) == TextDelta("one", None, 2)
    assert under_test.feed([2, 3]) == TextDelta(text[3:], " END", 1)
    assert under_test.feed([3]) == TextDelta("", " END", 0)
    assert under_test.finish() == ""


@pytest.mark.parametrize(
    ("text", "stops", "stop"),
    [
        ("abcabd", ["abd"], "abd"),  # a false start inside the match
        ("aaab", ["aab"], "aab"),
        ("xabcd", ["bc", "abcd"], "bc"),  # complete first
        ("xabcd", ["c", "abc"], "abc"),  # complete together: the longest
        ("xabcy", ["abcz", "bcy"], "bcy"),  # a false start of another
        ("ab", ["abc"], None),
    ],
)
def test_overlapping_stops(text, stops, stop):
    under_test = detokenizer([text.encode()], stop=stops)
    delta = under_test.feed([0])
    assert delta.stop == stop
    assert delta.text + under_test.finish() == (text[: text.index(stop)] if stop else text)


def test_stops_within_the_first_tokens_do_not_count():
    under_test = detokenizer([b"a.", b"b.", b"c."], stop=".", min_tokens=2)
    assert under_test.feed([0, 1, 2]) == TextDelta("a.b.c", ".", 3)


def test_a_stop_must_lie_wholly_after_the_first_tokens():
    under_test = detokenizer([b"a-", b"-", b"-."], stop="--", min_tokens=1)
    assert under_test.feed([0, 1, 2]) == TextDelta("a-", "--", 3)


@pytest.mark.parametrize(("skip", "text"), [(True, "ab"), (False, "a<sep>b")])
def test_special_tokens(skip, text):
    under_test = detokenizer([b"a", b"<sep>", b"b"], special={1}, skip_special_tokens=skip)
    assert under_test.feed([0, 1, 2]) == TextDelta(text, None, 3)


def test_a_leading_space_is_text():
    assert detokenizer([b" word"]).feed([0]).text == " word"


def test_no_tokens():
    under_test = detokenizer([], stop="x")
    assert under_test.feed([]) == TextDelta("", None, 0)
    assert under_test.finish() == ""


# -- the real vocabulary ----------------------------------------------------------------------------------------------------


@cache
def smollm2_tokenizer():
    return read_tokenizer(smollm2())


@pytest.mark.parametrize("text", [*TEXTS, "naïve 👩‍👩‍👧 日本語 \U0001f9a9 ﷽"])
def test_real_text_comes_through_token_by_token(text):
    tokenizer = smollm2_tokenizer()
    under_test = IncrementalDetokenizer(tokenizer, SamplingParams())
    deltas = [under_test.feed([token_id]).text for token_id in tokenizer.encode(text, parse_special=False)]
    assert "".join(deltas) + under_test.finish() == text
    assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas)


def test_a_real_stop_inside_a_character_run():
    tokenizer = smollm2_tokenizer()
    token_ids = tokenizer.encode("ねこ😺いぬ🐶とり")
    under_test = IncrementalDetokenizer(tokenizer, SamplingParams(stop="🐶"))
    delta = under_test.feed(token_ids)
    assert (delta.text, delta.stop) == ("ねこ😺いぬ", "🐶")
    assert delta.num_tokens < len(token_ids)
