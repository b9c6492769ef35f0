"""From a client's words to the engine's."""

import json

import pytest

from tiercel.server.errors import ApiError
from tiercel.server.protocol import ChatRequest, CompletionRequest
from tiercel.server.translate import chat_messages, chat_params, chat_tools, completion_params, field_names
from tiercel.types import InvalidInput, SamplingParams, StructuredOutput

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}


def completion(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps({"prompt": "hi", **fields}))


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({"messages": [USER], **fields}))


def test_nothing_asked_is_openais_default():
    assert completion_params(completion(), {}) == SamplingParams(max_tokens=16, temperature=1.0, top_p=1.0, n=1)
    assert chat_params(chat(), {}) == SamplingParams(max_tokens=None)


def test_every_field_arrives():
    fields = {
        "n": 2,
        "max_tokens": 9,
        "min_tokens": 1,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 7,
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    params = completion_params(completion(**fields, stop=["a", "b"], stop_token_ids=[5], logit_bias={"3": -1}, logprobs=2), {})
    assert {name: getattr(params, name) for name in fields} == fields
    assert (params.stop, params.stop_token_ids, params.logit_bias, params.logprobs) == (("a", "b"), (5,), {3: -1.0}, 2)


def test_stop_may_be_one_string():
    assert completion_params(completion(stop="end"), {}).stop == ("end",)


def test_recommended_settings():
    recommended = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "bos_token_id": 1.0}
    params = completion_params(completion(top_p=0.5), recommended)
    assert (params.temperature, params.top_k, params.top_p) == (0.6, 20, 0.5)


def test_chat_logprobs():
    assert chat_params(chat(logprobs=True), {}).logprobs == 0
    assert chat_params(chat(logprobs=True, top_logprobs=3), {}).logprobs == 3
    assert chat_params(chat(logprobs=False), {}).logprobs is None
    with pytest.raises(ApiError, match="top_logprobs"):
        chat_params(chat(top_logprobs=3), {})


def test_newer_name_of_max_tokens_goes_first():
    assert chat_params(chat(max_tokens=5, max_completion_tokens=6), {}).max_tokens == 6
    with pytest.raises(InvalidInput, match="max_completion_tokens"):
        chat_params(chat(max_completion_tokens=0), {})
    assert field_names(chat(max_completion_tokens=6))["max_tokens"] == "max_completion_tokens"
    assert "max_tokens" not in field_names(chat(max_tokens=6))


def test_messages_as_templates_want_them():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    request = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain", "tool_call_id": "1"},
        ]
    )
    assert chat_messages(request) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("arguments", ["", "[]", "{", "[" * 100_000, '{"a":' * 100_000])
def test_tool_arguments_must_be_an_object(arguments):
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ApiError) as caught:
        chat_messages(chat(messages=[USER, {"role": "assistant", "tool_calls": [call]}]))
    assert caught.value.detail.param == "messages[1].tool_calls[0].function.arguments"


def test_tools_are_shown_unless_forbidden():
    assert chat_tools(chat(tools=[TOOL])) == [TOOL]
    assert chat_tools(chat(tools=[TOOL], tool_choice="auto")) == [TOOL]
    assert chat_tools(chat(tools=[TOOL], tool_choice="none")) is None
    assert chat_tools(chat()) is None


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, StructuredOutput(json_object=True)),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, StructuredOutput(json_schema=SCHEMA)),
    ],
)
def test_response_format(asked, meant):
    assert chat_params(chat(response_format=asked), {}).structured == meant


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"json": SCHEMA}, StructuredOutput(json_schema=SCHEMA)),
        ({"regex": "a+"}, StructuredOutput(regex="a+")),
        ({"grammar": 'start: "a"'}, StructuredOutput(grammar='start: "a"')),
        ({"choice": ["a", "b"]}, StructuredOutput(choice=("a", "b"))),
    ],
)
def test_structured_outputs(asked, meant):
    assert chat_params(chat(structured_outputs=asked), {}).structured == meant
    assert completion_params(completion(structured_outputs=asked), {}).structured == meant


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": {"x": float("nan")}}}, "structured_outputs.json"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"x": float("inf")}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
def test_bad_structure_is_named(fields, param):
    with pytest.raises((ApiError, InvalidInput)) as caught:
        chat_params(chat(**fields), {})
    error = caught.value
    assert (error.field if isinstance(error, InvalidInput) else error.detail.param) == param
