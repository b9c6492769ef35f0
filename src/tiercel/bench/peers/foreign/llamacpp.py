"""llama.cpp through its server, one slot, flash attention. program: llama-server; model: a GGUF file.

The time per token is the server's own, without HTTP; the rest of the time of a request is the time to its first token.
"""

import atexit
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

CONTEXT = 8192


def load(program: str, model: str, threads: int) -> Callable[[list[int], int], tuple[float, float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"-m": model, "-t": threads, "-c": CONTEXT, "-np": 1, "-fa": "on", "-ub": 512, "--cache-ram": 0, "--port": port}
    server = subprocess.Popen([program, *(str(part) for pair in options.items() for part in pair)], stdout=sys.stderr)
    atexit.register(server.kill)
    while _ask(port, "GET", "/health") is None:
        if server.poll() is not None:
            raise SystemExit(f"{program} ended with code {server.returncode}")
        time.sleep(0.05)

    def generate(prompt: list[int], num_tokens: int) -> tuple[float, float]:
        start = time.perf_counter()
        body = {"prompt": prompt, "n_predict": num_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
        answer = _ask(port, "POST", "/completion", body)
        seconds = time.perf_counter() - start
        if answer is None or answer["timings"]["predicted_n"] != num_tokens:
            raise SystemExit(f"{num_tokens} tokens behind {len(prompt)} were not generated: {answer}")
        rest = answer["timings"]["predicted_ms"] / 1e3  # from the first token to the last
        return seconds - rest, rest / max(1, num_tokens - 1)

    return generate


def _ask(port: int, method: str, path: str, body: object = None) -> Any:
    """The server's answer; None where it gives none, or an error."""
    connection = HTTPConnection("127.0.0.1", port)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except OSError:
        return None
    finally:
        connection.close()
    return json.loads(content) if response.status == 200 else None
