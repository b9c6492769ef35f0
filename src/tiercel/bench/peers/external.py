"""Peers in processes of their own: programs that live in another interpreter, or are no Python at all."""

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from tiercel.bench.measure import Generation
from tiercel.types import InvalidInput, TiercelError

FOREIGN = Path(__file__).parent / "foreign"
# Whether `PROGRAM` is an interpreter that has the peer; if not, the script runs in this one and starts the program.
IS_INTERPRETER = {"llamacpp": False, "openvino": True, "vllm": True}
_SAID = 2000  # last characters of what a peer that failed said


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

    def command(self, threads: int) -> list[str]:
        interpreter = self.program if IS_INTERPRETER[self.name] else sys.executable
        scripts = str(FOREIGN / "serve.py"), str(FOREIGN / f"{self.name}.py")
        return [interpreter, *scripts, self.program, self.model, str(threads)]


class ExternalPeer:
    """A process that generates when it is asked to and is stopped, with all its threads and children, at any other time: some
    libraries' threads go on spinning for a while after they have worked."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Returns when the peer is ready. Raises TiercelError with its last words if it fails."""
        self.name = name
        self._said: IO[str] = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, start_new_session=True
        )
        weakref.finalize(self, _end, self._process)
        self._receive()
        self._signal(signal.SIGSTOP)

    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        """What it generates stays with it: the token ids are all 0."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompt": list(prompt), "num_tokens": num_tokens}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `_receive` says so
        times = self._receive()
        self._signal(signal.SIGSTOP)
        return Generation([0] * num_tokens, times["first"], times["per_token"] * (num_tokens - 1))

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:  # else its number may be another's by now
            os.killpg(self._process.pid, number)

    def _receive(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            raise TiercelError(f"{self.name} ended with code {code}: {self._said.read()[-_SAID:].strip()}")
        answer: dict[str, float] = json.loads(line)
        return answer


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # of what it never read
                pipe.close()
