"""llama.cpp through its server, flash attention. program: llama-server; model: a GGUF file.

A single prompt goes to a server with one slot. Several at once go to one with a slot for each, which takes the other's place
before the clock starts. The time per token is the server's own, without HTTP; the rest of the time of a request is the time to
its first token.
"""

import atexit
import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

CONTEXT = 8192  # of a single prompt
ROUND = 256  # the context of a slot is a multiple of this
PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class Peer:
    """folder: where the first slot's keys and values are kept."""

    def __init__(self, program: str, model: str, threads: int, folder: str = "") -> None:
        self._options = {"-m": model, "-t": threads, "-fa": "on", "-ub": 512, "--cache-ram": 0}
        if folder:
            self._options["--slot-save-path"] = folder
        self._program = program
        self._server: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)
        self._serve(1, CONTEXT)

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, float]]:
        longest = -(-(max(map(len, prompts)) + num_tokens) // ROUND) * ROUND
        if len(prompts) != self._slots or longest > self._context:
            self._serve(len(prompts), CONTEXT if len(prompts) == 1 else longest)
        with ThreadPoolExecutor(len(prompts)) as callers:
            start = time.perf_counter()
            answers = [callers.submit(self._complete, slot, prompt, num_tokens, start) for slot, prompt in enumerate(prompts)]
            return [answer.result() for answer in answers]

    def keep(self) -> None:
        self._slot("save")

    def recall(self) -> None:
        self._slot("restore")

    def _complete(self, slot: int, prompt: list[int], num_tokens: int, start: float) -> tuple[float, float]:
        body = {"prompt": prompt, "n_predict": num_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
        answer = self._ask("POST", "/completion", {**body, "id_slot": slot})
        seconds = time.perf_counter() - start
        if answer is None or answer["timings"]["predicted_n"] != num_tokens:
            raise SystemExit(f"{num_tokens} tokens behind {len(prompt)} were not generated: {answer}")
        return seconds - answer["timings"]["predicted_ms"] / 1e3, seconds  # predicted: from the first token to the last

    def _slot(self, action: str) -> None:
        if self._ask("POST", f"/slots/0?action={action}", {"filename": "slot.kv"}) is None:
            raise SystemExit(f"the server does not {action} a slot")

    def _serve(self, slots: int, context: int) -> None:
        """A server with so many slots of so many tokens each, in place of the one before."""
        self._stop()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._slots, self._context = slots, context
        options = {**self._options, "-c": slots * context, "-np": slots, "--port": self._port}
        command = [self._program, *(str(part) for pair in options.items() for part in pair)]
        self._server = subprocess.Popen(command, stdout=sys.stderr, preexec_fn=_end_with_caller)
        while self._ask("GET", "/health") is None:
            if self._server.poll() is not None:
                raise SystemExit(f"{self._program} ended with code {self._server.returncode}")
            time.sleep(0.01)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        """The server's answer; None where it gives none, or an error."""
        connection = HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except OSError:
            return None
        finally:
            connection.close()
        return json.loads(content) if response.status == 200 else None


def _end_with_caller() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
