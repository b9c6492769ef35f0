"""How long `tiercel run` takes from its start to its first token: with nothing kept of the model, and at later starts."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tiercel.bench.measure import Say, Summary
from tiercel.bench.report import Row
from tiercel.config import EngineConfig
from tiercel.models import Tokenizer
from tiercel.types import InvalidInput, TiercelError

_MAIN = "from tiercel.cli.main import main; main()"
_TEXT = (
    "Long before there were clocks people told the time by the sun, the stars and the sea. Each told a different time, and "
    "nobody minded, for nobody travelled fast enough to notice. "
)
_PHASES = re.compile(r"first token .* = (.*)")


@dataclass(frozen=True)
class Start:
    """One process. first: seconds from before it was started to its first byte on standard output, as seen from outside;
    end: to its end; phases: seconds of its parts, as it tells."""

    first: float
    end: float
    phases: Mapping[str, float]


@dataclass(frozen=True)
class Starts:
    """One model: starts with an empty cache of prepared models, and later ones.

    kept_bytes: of the cache after them; plan: what the engine said of itself.
    """

    cold: tuple[Start, ...]
    warm: tuple[Start, ...]
    kept_bytes: int
    plan: str


def measure_starts(config: EngineConfig, prompt: str, runs: int, later: int, say: Say) -> Starts:
    """Several runs, each a start with empty folders and `later` more. config: its `model_cache` is replaced, as is its
    `kv_disk` unless that was set. Raises TiercelError where a start fails."""
    cold, warm, kept, plan = [], [], 0, ""
    for run in range(runs):
        with TemporaryDirectory(prefix="tiercel-start-") as folder:
            command = _command(config, prompt, Path(folder))
            say(f"run {run + 1} of {runs}: first start")
            start, plan = _start(command)
            cold.append(start)
            for again in range(later):
                say(f"run {run + 1} of {runs}: start {again + 2}")
                warm.append(_start(command)[0])
            kept = sum(file.stat().st_size for file in Path(folder, "models").rglob("*") if file.is_file())
    return Starts(tuple(cold), tuple(warm), kept, plan)


def start_rows(starts: Starts) -> list[Row]:
    """A row for the time to the first token, for each of its parts, and for the end of the process. Seconds."""

    def row(what: str, seconds: Callable[[Start], float]) -> Row:
        both = ("first start", starts.cold), ("later start", starts.warm)
        return {"seconds": what, **{name: Summary.of([seconds(start) for start in some]) for name, some in both}}

    def part(phase: str) -> Row:
        return row(f"  {phase}", lambda start: start.phases[phase])

    parts = map(part, starts.cold[0].phases)
    return [row("to the first token", lambda start: start.first), *parts, row("to the end", lambda start: start.end)]


def prompt_of(tokenizer: Tokenizer, num_tokens: int) -> str:
    """A text of so many tokens. Raises InvalidInput where that fails."""
    ids = tokenizer.encode(_TEXT * (1 + num_tokens // 8))
    text = tokenizer.decode(ids[:num_tokens])
    if len(tokenizer.encode(text)) != num_tokens:
        raise InvalidInput("prompt_tokens", f"no text of {num_tokens} tokens is at hand; try another number")
    return text


def _command(config: EngineConfig, prompt: str, folder: Path) -> list[str]:
    given = {name: value for name, value in config.model_dump(mode="json").items() if name in config.model_fields_set}
    settings = {"kv_disk": str(folder / "kv"), **given, "model_cache": str(folder / "models")}
    options = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))]
    return [sys.executable, "-c", _MAIN, "run", prompt, "--raw", "--timings", "--max-tokens", "4", *options]


def _start(command: list[str]) -> tuple[Start, str]:
    """One start, and the plan that it told."""
    begin = perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = os.read(process.stdout.fileno(), 1), perf_counter() - begin
        process.stdout.read()
        said = process.stderr.read().decode(errors="replace")
    end = perf_counter() - begin
    phases = _PHASES.search(said)
    if process.returncode != 0 or not first[0] or phases is None:
        raise TiercelError(f"a start failed: {said.strip()[-500:]}")
    parts = (part.split(" ") for part in phases[1].split(" + "))
    return Start(first[1], end, {name: float(seconds) for name, seconds in parts}), said.splitlines()[0]
