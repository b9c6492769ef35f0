"""An engine for one command, and an answer written as it comes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from tiercel.cli.console import remark, waiting, write
from tiercel.cli.groups import Given
from tiercel.cli.laps import Note, ignore
from tiercel.cli.loading import loading
from tiercel.config import EngineConfig
from tiercel.types import SamplingParams

if TYPE_CHECKING:
    from tiercel.engine import LLM

MAX_TOKENS = 512  # of an answer, unless the user says otherwise


class Answer(NamedTuple):
    """A whole answer. first: seconds to its first token; rest: seconds for the others; stored_tokens: reused from disk."""

    text: str
    num_tokens: int
    prompt_tokens: int
    reused_tokens: int
    first: float
    rest: float
    stored_tokens: int = 0

    @property
    def speed(self) -> float:
        """Tokens per second after the first; 0 where there was none."""
        return (self.num_tokens - 1) / self.rest if self.num_tokens > 1 and self.rest > 0 else 0.0

    def __str__(self) -> str:
        memory = self.reused_tokens - self.stored_tokens
        places = f" ({memory:,} from memory, {self.stored_tokens:,} from disk)" if self.reused_tokens else ""
        return (
            f"{self.prompt_tokens:,} prompt tokens, {self.reused_tokens:,} reused{places}; "
            f"first token after {self.first:.2f} s; {self.num_tokens} tokens, {self.speed:.1f} per second"
        )


@contextmanager
def open_engine(config: EngineConfig, note: Note = ignore) -> "Iterator[LLM]":
    """Loads the model, says how much memory holds how much context, and closes the engine at the end."""
    with waiting(f"loading {config.model}"), loading():
        from tiercel.engine import LLM, load_checkpoint

        note("import")
        checkpoint = load_checkpoint(config)
        note("open")
        llm = LLM(config=config, checkpoint=checkpoint)
        note("build")
    remark(f"{llm.model_name}: {llm.plan}")
    with closing(llm):
        yield llm


def sampling_for(llm: "LLM", given: Given, prompt_tokens: int) -> SamplingParams:
    """What the user gave, over what the model's author recommends, over greedy decoding of as much as the context holds."""
    room = max(1, llm.plan.max_model_len - prompt_tokens)
    defaults = {"temperature": 0.0, "max_tokens": min(MAX_TOKENS, room)}
    return SamplingParams(**(defaults | dict(llm.generation_defaults) | dict(given)))


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed: the first one is only noted, so that it never cuts through a step of the engine."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def stream_answer(llm: "LLM", prompt: Sequence[int], given: Given, note: Note = ignore) -> Answer | None:
    """Writes the answer to standard output while it is generated. Returns it; None where Ctrl-C ended it."""
    params = sampling_for(llm, given, len(prompt))
    pieces, num_tokens = [], 0
    start = perf_counter()
    with stop_on_interrupt() as stopped:
        deltas = llm.stream(prompt, params)
        with waiting(f"reading {len(prompt):,} tokens"):
            opening = next(deltas)
        first = perf_counter()
        for delta in chain([opening], deltas):
            pieces.append(delta.text)
            num_tokens += len(delta.token_ids)
            write(delta.text)
            if delta is opening:
                note("prefill")
            if stopped():
                break
    write("\n")
    if stopped():
        return None
    times = first - start, perf_counter() - first
    stored = opening.reuse.stored_tokens if opening.reuse is not None else 0
    return Answer("".join(pieces), num_tokens, len(prompt), opening.cached_tokens, *times, stored)
