"""Peers in processes of their own: programs that live in another interpreter, or are no Python at all."""

import json
import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import IO, Any, NamedTuple

from tiercel.bench.measure import Generation
from tiercel.types import InvalidInput, TiercelError

FOREIGN = Path(__file__).parent / "foreign"
# Whether `PROGRAM` is an interpreter that has the peer; if not, the script runs in this one and starts the program.
IS_INTERPRETER = {"llamacpp": False, "openvino": True, "transformers": True, "vllm": True}
_SAID = 2000  # last characters of what a peer that failed said
_PEAK = re.compile(r"(?m)^VmHWM:\s+(\d+) kB")


class Times(NamedTuple):
    """When a request's first and last token came, in seconds from the moment all were handed in."""

    first: float
    last: float


class PeerSpec(NamedTuple):
    """NAME=PROGRAM:MODEL."""

    name: str
    program: str
    model: str

    @classmethod
    def parse(cls, text: str) -> "PeerSpec":
        """Raises InvalidInput if the name is unknown or a file is missing."""
        name, _, rest = text.partition("=")
        program, _, model = rest.partition(":")
        if name not in IS_INTERPRETER or not program or not model:
            names = ", ".join(IS_INTERPRETER)
            raise InvalidInput("peer", f"must be NAME=PROGRAM:MODEL with one of the names {names}; got {text!r}")
        for path in (program, model):
            if not Path(path).exists():
                raise InvalidInput("peer", f"{path} of {text!r} does not exist")
        return cls(name, program, model)

    @property
    def title(self) -> str:
        """Name and model, since one run may hold a program against several forms of a model."""
        return f"{self.name} {Path(self.model).name.removesuffix('.gguf')}"

    def command(self, threads: int, options: Mapping[str, object] | None = None) -> list[str]:
        """options: further arguments of the peer's own script."""
        interpreter = self.program if IS_INTERPRETER[self.name] else sys.executable
        script = str(FOREIGN / f"{self.name}.py")
        return serve_command(interpreter, script, self.program, self.model, threads, options or {})


def serve_command(
    interpreter: str, script: str, program: str, model: str, threads: int, options: Mapping[str, object]
) -> list[str]:
    """What starts a peer's script."""
    return [interpreter, str(FOREIGN / "serve.py"), script, program, model, str(threads), json.dumps(dict(options))]


class ExternalPeer:
    """A process that works when it is asked to and is stopped, with all its threads and children, at any other time: some
    libraries' threads go on spinning for a while after they have worked."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        counts_itself: bool = True,
    ) -> None:
        """Returns when the peer is ready. Raises TiercelError with its last words if it fails.

        environment: variables beside the caller's; counts_itself: whether the process's own memory is the peer's.
        """
        self.name = name
        self.begun = perf_counter()
        self._counts_itself = counts_itself
        self._said: IO[str] = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self._finalizer = weakref.finalize(self, _end, self._process)
        self._receive()
        self._signal(signal.SIGSTOP)

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        """What it generates stays with it: the token ids are all 0."""
        (times,) = self.generate_many([prompt], num_tokens)
        return Generation([0] * num_tokens, times.first, times.last - times.first)

    def generate_many(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[Times]:
        """Hands in all prompts at once; each gets exactly `num_tokens` tokens, greedily. In any order."""
        answer = self._ask({"prompts": [list(prompt) for prompt in prompts], "num_tokens": num_tokens})
        times = [Times(*pair) for pair in answer["times"]]
        if len(times) != len(prompts):
            raise TiercelError(f"{self.name} answered {len(times)} of {len(prompts)} prompts")
        return times

    def keep(self) -> float:
        """Puts what it has computed where it was told to when it was started. Returns the seconds that this took."""
        return float(self._ask({"do": "keep"})["seconds"])

    def recall(self) -> float:
        """Takes back what an earlier process has kept. Returns the seconds that this took."""
        return float(self._ask({"do": "recall"})["seconds"])

    def peak_memory(self) -> int:
        """Bytes: the most that each of its processes that still run has held in memory at a time (VmHWM), added up."""
        return sum(1024 * int(peak[1]) for status in self._statuses() if (peak := _PEAK.search(status)))

    def close(self) -> None:
        """Ends it, as letting go of it does."""
        self._finalizer()

    def _statuses(self) -> Iterator[str]:
        """proc(5) on its process group."""
        group = str(self._process.pid)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # those that end meanwhile
                belongs = (folder / "stat").read_text().rpartition(")")[2].split()[2] == group
                if belongs and (self._counts_itself or folder.name != group):
                    yield (folder / "status").read_text()

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `_receive` says so
        answer = self._receive()
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:  # else its number may be another's by now
            os.killpg(self._process.pid, number)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            raise TiercelError(f"{self.name} ended with code {code}: {self._said.read()[-_SAID:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # of what it never read
                pipe.close()
