"""Every field of SamplingParams refuses what it cannot mean, by name."""

import math

import msgspec
import pytest

from tiercel.types import InvalidInput, SamplingParams, StructuredOutput
from tiercel.types.sampling import MAX_LOGPROBS, MAX_SAMPLES, MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

HUGE = 10**5000  # more digits than Python prints, and no float

INTEGERS = {
    "n": (1, MAX_SAMPLES),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 16),
    "top_k": (0, 2**31 - 1),
    "seed": (-(2**63), 2**64 - 1),
    "logprobs": (0, MAX_LOGPROBS),
}
REALS = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
BOOLEANS = ["include_stop_str_in_output", "ignore_eos", "skip_special_tokens"]


def refuse(**fields):
    """Asserts that exactly the first field is what the error names; returns the message."""
    with pytest.raises(InvalidInput) as caught:
        SamplingParams(**fields)
    assert caught.value.field == next(iter(fields))
    assert len(str(caught.value)) < 300
    return caught.value.message


@pytest.mark.parametrize(("field", "bounds"), INTEGERS.items())
def test_integers_within_bounds(field, bounds):
    for value in bounds:
        assert getattr(SamplingParams(**{field: value}), field) == value
    for value in (bounds[0] - 1, bounds[1] + 1, HUGE, -HUGE):
        assert "must be" in refuse(**{field: value})


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [True, 1.0, math.nan, "1", [1], b"1"])
def test_integers_are_integers(field, value):
    assert "must be an integer" in refuse(**{field: value})


@pytest.mark.parametrize(("field", "bounds"), REALS.items())
def test_reals_within_bounds(field, bounds):
    for value in bounds:
        assert getattr(SamplingParams(**{field: value}), field) == value
    below, above = bounds[0] - 1e-3, bounds[1] + 1e-3
    for value in (below, above, math.nan, math.inf, -math.inf, HUGE, -HUGE):
        assert "must be between" in refuse(**{field: value})


@pytest.mark.parametrize("field", REALS)
@pytest.mark.parametrize("value", [True, "0.5", None, [0.5], 1j])
def test_reals_are_numbers(field, value):
    assert "must be a number" in refuse(**{field: value})


def test_an_integer_is_a_real():
    assert SamplingParams(temperature=1, top_p=1, presence_penalty=-2).presence_penalty == -2


def test_top_p_zero_names_the_mend():
    assert "temperature 0" in refuse(top_p=0.0)


@pytest.mark.parametrize("field", BOOLEANS)
def test_booleans(field):
    assert getattr(SamplingParams(**{field: True}), field) is True
    for value in (1, 0, "true", None):
        assert "true or false" in refuse(**{field: value})


@pytest.mark.parametrize("field", ["max_tokens", "seed", "logprobs", "logit_bias", "structured"])
def test_none_means_not_given(field):
    assert getattr(SamplingParams(**{field: None}), field) is None


@pytest.mark.parametrize("field", ["n", "min_tokens", "top_k", "stop", "stop_token_ids"])
def test_none_where_it_means_nothing(field):
    assert "must be" in refuse(**{field: None})


def test_min_tokens_at_most_max_tokens():
    assert SamplingParams(min_tokens=5, max_tokens=5).min_tokens == 5
    assert SamplingParams(min_tokens=500, max_tokens=None).min_tokens == 500
    assert "max_tokens (5)" in refuse(min_tokens=6, max_tokens=5)


@pytest.mark.parametrize(("given", "kept"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), (("é",), ("é",)), ([], ())])
def test_stop_strings(given, kept):
    assert SamplingParams(stop=given).stop == kept


@pytest.mark.parametrize(
    "stop",
    ["", [""], ["a", 1], [None], {"a"}, 5, ["x"] * (MAX_STOP_STRINGS + 1), ["x" * (MAX_STOP_CHARACTERS + 1)], ["\ud800"], b"a"],
)
def test_stop_strings_refused(stop):
    assert refuse(stop=stop)


def test_longest_stops():
    stop = tuple("x" * MAX_STOP_CHARACTERS for _ in range(MAX_STOP_STRINGS))
    assert SamplingParams(stop=stop).stop == stop


def test_stop_token_ids():
    assert SamplingParams(stop_token_ids=[0, 7]).stop_token_ids == (0, 7)
    for value in ([-1], [True], [1.0], [2**31], "12", 5, [None]):
        assert refuse(stop_token_ids=value)


def test_logit_bias():
    assert SamplingParams(logit_bias={0: -100, 5: 100.0}).logit_bias == {0: -100, 5: 100.0}
    for value in ({-1: 0.0}, {"5": 1.0}, {5: math.nan}, {5: 101}, {5: -101}, {5: True}, {True: 1.0}, [1], "a", {5: HUGE}):
        assert refuse(logit_bias=value)


def test_structured_must_be_a_structured_output():
    assert SamplingParams(structured=StructuredOutput(regex="a")).structured.regex == "a"
    for value in ({"regex": "a"}, "a", True):
        assert "StructuredOutput" in refuse(structured=value)


def test_messages_keep_everything():
    """Parameters travel to the engine process and arrive equal."""
    params = SamplingParams(
        n=2,
        max_tokens=None,
        temperature=0.5,
        seed=2**64 - 1,
        stop=["a", "ß"],
        stop_token_ids=[3],
        logit_bias={7: -1.5},
        structured=StructuredOutput(json_schema={"type": "object", "title": "\ud800"}),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


def test_a_message_that_lies_is_refused():
    with pytest.raises(msgspec.ValidationError, match="temperature"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"temperature": -1.0}), type=SamplingParams)


# -- structured output ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"json_schema": {"type": "string"}}, "json_schema"),
        ({"json_schema": '{ "type" : "string" }'}, "json_schema"),
        ({"json_object": True}, "json_object"),
        ({"regex": "a+"}, "regex"),
        ({"choice": ["yes", "no"]}, "choice"),
        ({"grammar": 'start: "a"'}, "grammar"),
    ],
)
def test_one_form(fields, kind):
    assert StructuredOutput(**fields).kind == kind
    assert hash(StructuredOutput(**fields)) == hash(StructuredOutput(**fields))


def test_a_schema_has_one_spelling():
    given = StructuredOutput(json_schema={"type": "string"})
    assert given == StructuredOutput(json_schema='{ "type" :\n"string" }')
    assert given.json_schema == '{"type": "string"}'


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "structured"),
        ({"json_object": False}, "structured"),
        ({"regex": "a", "json_object": True}, "structured"),
        ({"json_object": 1}, "structured.json_object"),
        ({"regex": ""}, "structured.regex"),
        ({"regex": 5}, "structured.regex"),
        ({"regex": "\udfff"}, "structured.regex"),
        ({"regex": "a" * 70_000}, "structured.regex"),
        ({"grammar": ["a"]}, "structured.grammar"),
        ({"grammar": ""}, "structured.grammar"),
        ({"choice": []}, "structured.choice"),
        ({"choice": "yes"}, "structured.choice"),
        ({"choice": ["yes", ""]}, "structured.choice"),
        ({"choice": ["yes", 1]}, "structured.choice"),
        ({"choice": ["a"] * 1025}, "structured.choice"),
        ({"choice": ["a" * 40_000, "b" * 40_000]}, "structured.choice"),
        ({"json_schema": "{"}, "structured.json_schema"),
        ({"json_schema": "[" * 100_000}, "structured.json_schema"),
        ({"json_schema": "[1]"}, "structured.json_schema"),
        ({"json_schema": True}, "structured.json_schema"),
        ({"json_schema": {"const": math.nan}}, "structured.json_schema"),
        ({"json_schema": '{"const": NaN}'}, "structured.json_schema"),
        ({"json_schema": {"const": {1, 2}}}, "structured.json_schema"),
        ({"json_schema": {"const": "a" * 70_000}}, "structured.json_schema"),
    ],
)
def test_forms_refused(fields, field):
    with pytest.raises(InvalidInput) as caught:
        StructuredOutput(**fields)
    assert caught.value.field == field
    assert len(str(caught.value)) < 300
