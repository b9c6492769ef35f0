"""Routes, keys, origins, and errors that never reach the engine."""

import httpx
import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.serving import serving

COMPLETION = {"prompt": "hi", "max_tokens": 2}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def llm():
    return FakeLLM()


@pytest.fixture(scope="module")
def client(llm):
    with serving(llm, max_body="64KiB") as url, httpx.Client(base_url=url) as client:
        yield client


def error_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def test_models(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("fake", "model", 1024)
    assert client.get("/v1/models/fake").json() == card
    assert error_of(client.get("/v1/models/some/other"), 404)["code"] == "model_not_found"


def test_health_version_and_request_id(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/version").json()["version"]
    ids = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_request_id_names_the_answer(client):
    response = client.post("/v1/completions", json=COMPLETION)
    assert response.json()["id"] == "cmpl-" + response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
def test_wrong_path_or_method(client, method, path, status, code):
    assert error_of(client.request(method, path), status)["code"] == code


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/json5"])
def test_body_must_say_that_it_is_json(client, content_type):
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post("/v1/completions", content=b'{"prompt": "hi"}', headers=headers)
    assert error_of(answer, 415)["code"] == "unsupported_media_type"


def test_content_type_with_charset_is_json(client):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/completions", content=b'{"prompt": "hi"}', headers=headers).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_body_has_a_bound(client, chunked):
    body = b'{"prompt": "' + b"x" * 70_000 + b'"}'
    answer = client.post("/v1/completions", content=iter([body]) if chunked else body, headers=JSON)
    assert error_of(answer, 413)["code"] == "body_too_large"
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"not json",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b"[" * 30_000,
        b'{"prompt":' * 5_000,
        b'{"seed": ' + b"9" * 5_000 + b"}",
        b'{"prompt": "hi"} trailing',
    ],
)
def test_bad_json(client, body):
    error = error_of(client.post("/v1/completions", content=body, headers=JSON), 400)
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"7"])
def test_body_that_is_no_object(client, body):
    error = error_of(client.post("/v1/completions", content=body, headers=JSON), 400)
    assert (error["code"], error["param"]) == ("invalid_type", None)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ('"temprature": 1', "temprature", "unknown_parameter"),
        ('"stream_options": {"include_use": true}, "stream": true', "stream_options.include_use", "unknown_parameter"),
        ('"temperature": NaN', "temperature", "invalid_value"),
        ('"temperature": Infinity', "temperature", "invalid_value"),
        ('"top_p": 1e999', "top_p", "invalid_value"),
        ('"logit_bias": {"5": NaN}', "logit_bias.5", "invalid_value"),
        ('"logit_bias": {"five": 1}', "logit_bias.five", "invalid_value"),
        ('"logit_bias": {"5": 101}', "logit_bias", "invalid_value"),
        ('"temperature": -0.1', "temperature", "invalid_value"),
        ('"max_tokens": -1', "max_tokens", "invalid_value"),
        ('"max_tokens": 0', "max_tokens", "invalid_value"),
        ('"max_tokens": 1.5', "max_tokens", "invalid_type"),
        ('"max_tokens": true', "max_tokens", "invalid_type"),
        ('"max_tokens": "5"', "max_tokens", "invalid_type"),
        ('"n": 0', "n", "invalid_value"),
        ('"n": 129', "n", "invalid_value"),
        ('"top_k": -1', "top_k", "invalid_value"),
        ('"top_p": 0', "top_p", "invalid_value"),
        ('"min_p": 1.01', "min_p", "invalid_value"),
        ('"repetition_penalty": -1', "repetition_penalty", "invalid_value"),
        ('"presence_penalty": 2.1', "presence_penalty", "invalid_value"),
        ('"frequency_penalty": -2.1', "frequency_penalty", "invalid_value"),
        ('"seed": 99999999999999999999999999', "seed", "invalid_value"),
        ('"priority": 99999999999999999999999999', "priority", "invalid_value"),
        ('"min_tokens": 3, "max_tokens": 2', "min_tokens", "invalid_value"),
        ('"stop": 5', "stop", "invalid_value"),
        ('"stop": ["a", 5]', "stop[1]", "invalid_type"),
        ('"stop": ""', "stop", "invalid_value"),
        ('"stop": ["a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a"]', "stop", "invalid_value"),
        ('"stop_token_ids": [-1]', "stop_token_ids", "invalid_value"),
        ('"stream": "yes"', "stream", "invalid_type"),
        ('"stream_options": {}', "stream_options", "invalid_value"),
        ('"suffix": "end"', "suffix", "unsupported_parameter"),
        ('"logprobs": 21', "logprobs", "invalid_value"),
        ('"echo": true, "logprobs": 1', "echo", "invalid_value"),
        ('"model": "other"', "model", "model_not_found"),
        ('"model": 5', "model", "invalid_type"),
    ],
)
def test_bad_field_is_named(client, fields, param, code):
    body = '{"prompt": "hi", ' + fields + "}"
    error = error_of(client.post("/v1/completions", content=body, headers=JSON), 404 if code == "model_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)
    assert param in error["message"]


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], [True], [1.5], ["a", 5], [[1], ["a"]], {"text": "a"}, [[1, None]]])
def test_bad_prompt(client, prompt):
    error = error_of(client.post("/v1/completions", json={"prompt": prompt}), 400)
    assert (error["param"], error["code"]) == ("prompt", "invalid_value")


@pytest.mark.parametrize("token", [-1, 256, 10**30])
def test_echo_of_tokens_that_do_not_exist(client, token):
    assert error_of(client.post("/v1/completions", json={"prompt": [token], "echo": True}), 400)["param"] == "prompt"


def test_missing_field(client):
    assert error_of(client.post("/v1/completions", json={}), 400)["code"] == "missing_required_parameter"
    assert error_of(client.post("/v1/chat/completions", json={}), 400)["param"] == "messages"


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{**USER, "mood": "good"}]}, "messages[0].mood"),
        ({"messages": [USER], "max_completion_tokens": -1}, "max_completion_tokens"),
        ({"messages": [USER], "max_tokens": -1}, "max_tokens"),
        ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [USER], "logprobs": 2}, "logprobs"),
        ({"messages": [USER], "tool_choice": "required"}, "tool_choice"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "["}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_bad_chat_field_is_named(client, body, param):
    error = error_of(client.post("/v1/chat/completions", json=body), 400)
    assert error["param"] == param
    assert error["message"].startswith(param)


@pytest.mark.parametrize("stream", [False, True])
def test_over_long_prompt(client, stream):
    error = error_of(client.post("/v1/completions", json={"prompt": "x" * 2000, "stream": stream}), 400)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


def test_null_means_absent(client, llm):
    fields = ("model", "stream", "stream_options", "max_tokens", "n", "temperature", "stop", "seed", "logit_bias", "logprobs")
    assert client.post("/v1/completions", json={"prompt": "hi"} | dict.fromkeys(fields)).status_code == 200
    assert llm.seen[-1].max_tokens == 16


def test_unexpected_error_is_an_error_object_without_its_cause():
    with serving(FakeLLM(fail_after=0, error=RuntimeError("secret detail"))) as url:
        error = error_of(httpx.post(f"{url}/v1/completions", json=COMPLETION), 500)
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert "secret" not in error["message"]


def test_dead_engine():
    with serving(FakeLLM(alive=False, fail_after=0)) as url:
        assert error_of(httpx.get(f"{url}/health"), 503)["code"] == "engine_dead"
        assert error_of(httpx.post(f"{url}/v1/completions", json=COMPLETION), 503)["code"] == "engine_dead"
        metrics = httpx.get(f"{url}/metrics")
        assert "tiercel_engine_up 0.0" in metrics.text
        assert "tiercel_requests_running" not in metrics.text


def test_api_key():
    with serving(FakeLLM(), api_key="sesame") as url:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}):
            assert error_of(httpx.get(f"{url}/v1/models", headers=headers), 401)["code"] == "invalid_api_key"
            assert error_of(httpx.post(f"{url}/v1/completions", json=COMPLETION, headers=headers), 401)
        assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer sesame"}).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200


def test_foreign_origins_are_refused_unless_allowed():
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with serving(FakeLLM()) as url:
        answer = httpx.options(f"{url}/v1/completions", headers=preflight)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers
    with serving(FakeLLM(), allowed_origins=["https://page.example"]) as url:
        answer = httpx.options(f"{url}/v1/completions", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(f"{url}/v1/completions", headers=preflight | {"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_http_answers_are_counted_by_route(client):
    client.get("/v1/models/fake")
    client.get("/some/path/nobody/made")
    text = client.get("/metrics").text
    assert 'tiercel_http_responses_total{path="/v1/models/{name:path}",status="200"}' in text
    assert 'tiercel_http_responses_total{path="unknown",status="404"}' in text
