"""Clients that do not behave, and the real engine's view of them."""

import json

import httpx
import pytest

from tests.server.test_generation import eventually, open_request

LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


@pytest.mark.parametrize("stream", [True, False])
def test_engine_drops_the_request_of_a_client_that_left(server, stream):
    connection = open_request(server.url, "/v1/completions", LONG | {"stream": stream})
    assert eventually(lambda: server.metrics()["tiercel_requests_running"] == 1)
    before = server.metrics()["tiercel_generation_tokens_total"]
    connection.close()
    assert eventually(lambda: server.metrics()["tiercel_requests_running"] == 0)
    assert server.metrics()["tiercel_generation_tokens_total"] - before < 300
    assert server.metrics()["tiercel_sequences_in_flight"] == 0


def test_client_that_leaves_while_its_request_waits(server):
    """More samples than run at once: some wait, and waiting ones are dropped too."""
    connections = [open_request(server.url, "/v1/completions", LONG | {"n": 40}) for _ in range(2)]
    assert eventually(lambda: server.metrics()["tiercel_sequences_in_flight"] == 80)
    for connection in connections:
        connection.close()
    assert eventually(
        lambda: (server.metrics()["tiercel_requests_running"], server.metrics()["tiercel_requests_waiting"]) == (0, 0)
    )
    assert server.metrics()["tiercel_kv_blocks_used"] == 0


def test_client_that_reads_late_gets_everything_and_stops_nobody(server):
    body = LONG | {"max_tokens": 30, "logprobs": 20}
    whole = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    late = open_request(server.url, "/v1/completions", body | {"stream": True}, receive_buffer=4096)
    quick = httpx.post(f"{server.url}/v1/completions", json=LONG | {"max_tokens": 10}, timeout=60).json()
    assert whole.startswith(quick["choices"][0]["text"])
    assert eventually(lambda: server.metrics()["tiercel_requests_running"] == 0)
    with late, late.makefile("r", newline="\n") as lines:
        data = [line.removeprefix("data: ") for line in lines_until_done(lines)]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in data) == whole


def lines_until_done(lines):
    for line in lines:
        if line.startswith("data: [DONE]"):
            return
        if line.startswith("data: "):
            yield line
