"""A real server: `tiercel serve` with a real model, in a process of its own."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 240


class ServerProcess:
    """Gathers the server's log, one JSON object a line; `url` once it is ready."""

    def __init__(self, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("tiercel")), "serve", "--port", "0", "--log-format", "json", *options]
        self.popen = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.log: list[dict] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def url(self) -> str:
        return self.event("ready")["url"]

    @property
    def engine_pid(self) -> int:
        """The process that computes: the server's only child."""
        pid = self.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (engine,) = [int(child) for child in children if b"tiercel.engine" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return engine

    def event(self, name: str) -> dict:
        """Waits for a line of the log."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            for line in self.log:
                if line.get("event") == name:
                    return line
            if self.popen.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not say {name!r}: {self.log}")

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name and labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def terminate(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Sends a signal and returns the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(seconds)

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else {"text": line})


@contextmanager
def running_server(*options: str) -> Iterator[ServerProcess]:
    server = ServerProcess(*options)
    try:
        yield server
    finally:
        if server.popen.poll() is None:
            server.popen.kill()
            server.popen.wait()
