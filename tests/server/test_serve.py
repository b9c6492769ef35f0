"""A server's life: it starts, it stops when told, it says so when its engine dies."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import SMALL
from tests.server.process import running_server
from tests.server.test_generation import eventually

LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def last_event(response: httpx.Response) -> dict:
    *_, last = [line for line in response.iter_lines() if line]
    return json.loads(last.removeprefix("data: "))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_streams_engine_and_process(number):
    """The request outlives the grace period, so its stream ends with an error that says why."""
    with running_server(*SMALL, "--shutdown-timeout", "0.5") as server:
        engine = server.engine_pid if server.url else 0
        with httpx.stream("POST", f"{server.url}/v1/completions", json=LONG | {"stream": True}, timeout=60) as response:
            assert response.status_code == 200
            server.popen.send_signal(number)
            assert last_event(response)["error"]["code"] == "shutting_down"
        assert server.popen.wait(30) == 0
        assert eventually(lambda: not process_exists(engine))


def test_running_requests_may_finish():
    with running_server(*SMALL, "--shutdown-timeout", "60") as server:
        body = {"prompt": "Once upon a time", "max_tokens": 20, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
            server.popen.send_signal(signal.SIGTERM)
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert server.popen.wait(30) == 0


def test_killed_engine_is_told_to_everybody():
    with running_server(*SMALL) as server:
        answers: list[httpx.Response] = []

        def ask(stream: bool) -> None:
            answers.append(httpx.post(f"{server.url}/v1/completions", json=LONG | {"stream": stream}, timeout=60))

        assert httpx.get(f"{server.url}/health").status_code == 200
        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: server.metrics()["tiercel_requests_running"] == 2)
        time.sleep(0.5)  # the stream has begun
        os.kill(server.engine_pid, signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        assert len(answers) == 2
        for answer in answers:
            assert (answer.status_code, '"code":"engine_dead"' in answer.text) in ((200, True), (503, True))
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert server.metrics()["tiercel_engine_up"] == 0
        assert httpx.post(f"{server.url}/v1/completions", json=LONG).status_code == 503
        assert server.terminate() == 0


def test_taken_port_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with running_server("--port", str(taken.getsockname()[1])) as server:
            assert server.popen.wait(60) != 0
        text = " ".join(str(line) for line in server.log)
        assert "cannot listen" in text
        assert "loading" not in [line.get("event") for line in server.log]


def test_start_tells_memory_plan_and_address(server):
    assert "tokens" in server.event("memory plan")["plan"]
    assert server.event("ready")["url"].startswith("http://127.0.0.1:")


def process_exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
