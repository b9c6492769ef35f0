"""How a server stops, with an engine that never finishes: signals, grace, impatience, clients that do not read."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.test_generation import ENDLESS, eventually, open_request
from tiercel.config.server import ServerConfig
from tiercel.server.serve import run_http


def serve_while(llm: FakeLLM, clients: Callable[[str], None], **settings: object) -> None:
    """Serves in this thread until a signal ends it; `clients` runs beside it. A server that does not end times the test out."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=clients, args=(f"http://127.0.0.1:{listener.getsockname()[1]}",))
    thread.start()
    asyncio.run(run_http(llm, ServerConfig(**settings), listener))
    thread.join()
    assert not llm.running


def test_grace_over_ends_requests_with_an_error():
    llm = FakeLLM(step=0.01)
    answers: list[httpx.Response] = []

    def clients(url: str) -> None:
        def ask(stream: bool) -> None:
            answers.append(httpx.post(f"{url}/v1/completions", json=ENDLESS | {"stream": stream}))

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(llm.running) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        for thread in threads:
            thread.join()

    serve_while(llm, clients, shutdown_timeout=0.2)
    assert sorted(answer.status_code for answer in answers) == [200, 503]
    assert all('"code":"shutting_down"' in answer.text for answer in answers)


def test_second_signal_skips_the_grace():
    llm = FakeLLM(step=0.01)

    def clients(url: str) -> None:
        connection = open_request(url, "/v1/completions", ENDLESS | {"stream": True})
        eventually(lambda: llm.running)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        while connection.recv(65536):
            pass

    serve_while(llm, clients, shutdown_timeout=1000)


def test_client_that_does_not_read_cannot_hold_the_server():
    llm = FakeLLM(word="word" * 20_000, step=0.002)
    stuck: list[socket.socket] = []

    def clients(url: str) -> None:
        stuck.append(open_request(url, "/v1/completions", ENDLESS | {"stream": True}, receive_buffer=4096))
        eventually(lambda: llm.running)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    serve_while(llm, clients, shutdown_timeout=0)
    stuck[0].close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_at_once(number):
    healthy: list[int] = []

    def clients(url: str) -> None:
        healthy.append(httpx.get(f"{url}/health").status_code)
        os.kill(os.getpid(), number)

    serve_while(FakeLLM(), clients, shutdown_timeout=1000)
    assert healthy == [200]
