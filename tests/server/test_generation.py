"""Answers as they are sent: events, clients that leave or do not read, errors on the way, a full queue, time that runs out."""

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from tests.server.fake_llm import PLAN, FakeLLM
from tests.server.serving import serving

ENDLESS = {"prompt": "hi", "max_tokens": 100_000}


def events(response: httpx.Response) -> list[dict]:
    """The data of all events; the stream must end with [DONE] unless its last event is an error."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if lines[-1] == "[DONE]":
        lines.pop()
    else:
        assert "error" in json.loads(lines[-1])
    return [json.loads(line) for line in lines]


def eventually(condition) -> bool:
    """Whether it becomes true within some seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def open_request(url: str, path: str, body: dict, receive_buffer: int | None = None) -> socket.socket:
    """Sends a request over a bare socket and reads nothing."""
    address = urlsplit(url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((address.hostname, address.port))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_completion_events():
    with serving(FakeLLM()) as url:
        body = {"prompt": "hi", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
        response = httpx.post(f"{url}/v1/completions", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(response)
    assert [c["choices"][0]["text"] for c in chunks] == ["ha ", "ha ", "ha "]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "length"]
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert {(c["id"], c["object"], c["model"]) for c in [*chunks, last]} == {(last["id"], "text_completion", "fake")}


def test_chat_events_name_the_role_first_and_the_end_last():
    with serving(FakeLLM()) as url:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "n": 2, "stream": True}
        chunks = events(httpx.post(f"{url}/v1/chat/completions", json=body))
    assert all("usage" not in c and c["object"] == "chat.completion.chunk" for c in chunks)
    for index in range(2):
        choices = [choice for c in chunks for choice in c["choices"] if choice["index"] == index]
        assert [c["delta"] for c in choices] == [
            {"role": "assistant", "content": ""},
            {"content": "ha "},
            {"content": "ha "},
            {},
        ]
        assert [c["finish_reason"] for c in choices] == [None, None, None, "length"]


def test_many_prompts_and_samples_keep_their_order():
    with serving(FakeLLM()) as url:
        body = {"prompt": ["one", [84, 119, 111]], "n": 2, "max_tokens": 2, "echo": True}
        whole = httpx.post(f"{url}/v1/completions", json=body).json()
        chunks = events(httpx.post(f"{url}/v1/completions", json=body | {"stream": True}))
    expected = ["oneha ha ", "oneha ha ", "Twoha ha ", "Twoha ha "]
    assert [c["text"] for c in whole["choices"]] == expected
    assert [c["index"] for c in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"]["prompt_tokens"] == 6
    assert whole["usage"]["completion_tokens"] == 8
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    streamed = [""] * 4
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        streamed[choice["index"]] += choice["text"]
    assert streamed == expected


def test_an_error_in_one_prompt_ends_the_others():
    llm = FakeLLM(step=0.01)
    with serving(llm) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": ["fine", "x" * 2000], "max_tokens": 100_000})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "prompt"
        assert eventually(lambda: not llm.running)


def test_error_in_mid_stream_is_the_last_event():
    for error, code in ((None, "engine_dead"), (RuntimeError("secret"), "internal_error")):
        llm = FakeLLM(fail_after=2) if error is None else FakeLLM(fail_after=2, error=error)
        with serving(llm) as url:
            response = httpx.post(f"{url}/v1/completions", json=ENDLESS | {"stream": True})
        assert response.status_code == 200
        *chunks, last = events(response)
        assert len(chunks) == 2
        assert last["error"]["code"] == code
        assert "secret" not in response.text


def test_error_before_the_first_token_has_its_status():
    with serving(FakeLLM(fail_after=0)) as url:
        answer = httpx.post(f"{url}/v1/completions", json=ENDLESS | {"stream": True})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_dead"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", ENDLESS),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 100_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100_000}),
    ],
)
def test_a_client_that_leaves_aborts_its_request(path, body, stream):
    llm = FakeLLM(step=0.01)
    with serving(llm) as url:
        connection = open_request(url, path, body | {"stream": stream})
        assert eventually(lambda: llm.running)
        if stream:
            connection.recv(1)
        connection.close()
        assert eventually(lambda: not llm.running)
        assert llm.aborted
        assert eventually(lambda: 'tiercel_sequences_finished_total{finish_reason="abort"}' in httpx.get(f"{url}/metrics").text)
        assert "tiercel_sequences_in_flight 0.0" in httpx.get(f"{url}/metrics").text


def test_a_client_that_does_not_read_blocks_its_own_stream_only():
    """Once the socket is full nothing more is taken from the engine for it, where unread deltas are joined."""
    llm = FakeLLM(word="word" * 20_000, step=0.002)
    with serving(llm) as url:
        slow = open_request(url, "/v1/completions", ENDLESS | {"stream": True}, receive_buffer=4096)
        assert eventually(lambda: llm.running)
        (name,) = llm.running

        def stalled() -> bool:
            before = llm.deltas.get(name, 0)
            time.sleep(0.2)
            return llm.deltas.get(name, 0) == before > 0

        assert eventually(stalled)
        quick = httpx.post(f"{url}/v1/completions", json={"prompt": "hi", "max_tokens": 20, "stream": True})
        assert sum(len(c["choices"][0]["text"]) for c in events(quick)) == 20 * 80_000
        assert name in llm.running
        slow.close()
        assert eventually(lambda: not llm.running)


def test_a_client_that_leaves_in_the_middle_of_its_body():
    with serving(FakeLLM()) as url:
        address = urlsplit(url)
        connection = socket.create_connection((address.hostname, address.port))
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"prompt"')
        time.sleep(0.1)
        connection.close()
        left = 'tiercel_http_responses_total{path="/v1/completions",status="499"} 1.0'
        assert eventually(lambda: left in httpx.get(f"{url}/metrics").text)


def test_full_queue_is_429_with_retry_after():
    llm = FakeLLM(step=0.01)
    with serving(llm, max_queued=2) as url:  # 4 run, 2 wait
        waiting = [open_request(url, "/v1/completions", ENDLESS | {"n": 3}) for _ in range(2)]
        assert eventually(lambda: len(llm.running) == 2)
        refused = httpx.post(f"{url}/v1/completions", json=ENDLESS)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        waiting[0].close()
        assert eventually(lambda: len(llm.running) == 1)
        assert httpx.post(f"{url}/v1/completions", json={"prompt": "hi"}).status_code == 200
        waiting[1].close()


def test_a_request_that_never_fits_the_queue_is_not_told_to_retry():
    with serving(FakeLLM(), max_queued=2) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": ["a"] * 7})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too_many_sequences"


@pytest.mark.parametrize("stream", [True, False])
def test_time_runs_out(stream):
    llm = FakeLLM(step=0.01)
    with serving(llm, request_timeout=0.3) as url:
        answer = httpx.post(f"{url}/v1/completions", json=ENDLESS | {"stream": stream})
        assert answer.status_code == (200 if stream else 504)
        error = events(answer)[-1]["error"] if stream else answer.json()["error"]
        assert error["code"] == "timeout"
        assert eventually(lambda: not llm.running)


def test_many_streams_at_once():
    llm = FakeLLM(step=0.005, plan=msgspec.structs.replace(PLAN, max_num_seqs=64))

    async def run(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            bodies = [{"prompt": "hi", "max_tokens": 20 + i, "stream": True} for i in range(64)]
            answers = await asyncio.gather(*(client.post(f"{url}/v1/completions", json=body) for body in bodies))
        return ["".join(c["choices"][0]["text"] for c in events(answer)) for answer in answers]

    with serving(llm) as url:
        texts = asyncio.run(run(url))
    assert texts == ["ha " * (20 + i) for i in range(64)]


def test_recommended_settings_yield_to_the_client():
    llm = FakeLLM(generation_defaults={"temperature": 0.6, "top_k": 20.0})
    with serving(llm) as url:
        httpx.post(f"{url}/v1/completions", json={"prompt": "hi", "temperature": 0.0})
        assert (llm.seen[-1].temperature, llm.seen[-1].top_k) == (0.0, 20)
        httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}], "top_k": 3})
        assert (llm.seen[-1].temperature, llm.seen[-1].top_k) == (0.6, 3)
