"""What lies between the native calls of a decoding step when a real server answers: its engine is a process of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from urllib.request import Request, urlopen

from tiercel.bench.measure import Say, Summary
from tiercel.bench.report import Row
from tiercel.config import EngineConfig
from tiercel.types import TiercelError

MILLI = 1e3
_MAIN = "from tiercel.cli.main import main; main()"
_PHASE = re.compile(r'(?m)^tiercel_step_phase_seconds_total\{phase="(\w+)"\} (\S+)')
_STEPS = re.compile(r"(?m)^tiercel_steps_total (\S+)")


@dataclass(frozen=True)
class Streamed:
    """One streamed completion. per_token: seconds between tokens at the client; phases: seconds per step of the engine."""

    per_token: float
    phases: dict[str, float]

    @property
    def between(self) -> float:
        """Seconds per token outside `execute`: scheduling, arrays, messages, detokenisation, HTTP."""
        return self.per_token - self.phases["execute"]


def measure_server(config: EngineConfig, prompt: Sequence[int], num_tokens: int, runs: int, say: Say) -> list[Streamed]:
    """Streams the same completion `runs` times from one server, after a first one. Raises TiercelError if it does not start."""
    with _serving(config) as url:
        say("warming up")
        _stream(url, prompt, num_tokens)
        streamed = []
        for run in range(runs):
            say(f"run {run + 1} of {runs}")
            steps, phases = _engine(url)
            per_token = _stream(url, prompt, num_tokens)
            steps_after, after = _engine(url)
            taken = steps_after - steps
            streamed.append(Streamed(per_token, {name: (after[name] - before) / taken for name, before in phases.items()}))
    return streamed


def server_rows(streamed: Sequence[Streamed]) -> list[Row]:
    """Milliseconds per token."""

    def row(what: str, values: Sequence[float]) -> Row:
        return {"what": what, "per token, ms": Summary.of([value * MILLI for value in values])}

    phases = [row(f"  engine: {name}", [s.phases[name] for s in streamed]) for name in streamed[0].phases]
    return [
        row("between tokens, at the client", [s.per_token for s in streamed]),
        *phases,
        row("all but execute", [s.between for s in streamed]),
    ]


@contextmanager
def _serving(config: EngineConfig) -> Iterator[str]:
    """A server on a free port; its address."""
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in _given(config).items()]
    command = [sys.executable, "-c", _MAIN, "serve", "--port=0", "--log-format=json", *settings]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert server.stderr is not None
    log: list[str] = []
    try:
        for line in server.stderr:
            log.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                yield event["url"]
                return
        raise TiercelError(f"the server did not start: {''.join(log[-3:])}")
    finally:
        server.terminate()
        server.stderr.close()
        server.wait()


def _given(config: EngineConfig) -> dict[str, object]:
    """The settings that are not defaults, as options of the command line take them; nothing is kept on disk."""
    given = {name: value for name, value in config.model_dump().items() if value != type(config).model_fields[name].default}
    given["kv_disk"] = "off"
    return {name: ("on" if value else "off") if isinstance(value, bool) else value for name, value in given.items()}


def _stream(url: str, prompt: Sequence[int], num_tokens: int) -> float:
    """Seconds per token after the first."""
    body = {"prompt": list(prompt), "max_tokens": num_tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    body["model"] = json.loads(_get(f"{url}/v1/models"))["data"][0]["id"]
    request = Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    first = last = 0.0
    with urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                last = perf_counter()
                first = first or last
    return (last - first) / (num_tokens - 1)


def _engine(url: str) -> tuple[float, dict[str, float]]:
    """Steps of the engine, and seconds of each phase of them, since its start."""
    text = _get(f"{url}/metrics").decode()
    steps = _STEPS.search(text)
    assert steps is not None
    return float(steps[1]), {name: float(seconds) for name, seconds in _PHASE.findall(text)}


def _get(url: str) -> bytes:
    with urlopen(url) as answer:
        content: bytes = answer.read()
    return content
