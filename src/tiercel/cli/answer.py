"""An engine for one command, and an answer written as it comes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING

from tiercel.cli.console import notes, waiting, write
from tiercel.cli.groups import Given
from tiercel.config import EngineConfig
from tiercel.types import SamplingParams

if TYPE_CHECKING:
    from tiercel.engine import LLM

MAX_TOKENS = 512  # of an answer, unless the user says otherwise


@contextmanager
def open_engine(config: EngineConfig) -> "Iterator[LLM]":
    """Loads the model, says how much memory holds how much context, and closes the engine at the end."""
    with waiting(f"loading {config.model}"):
        from tiercel.engine import LLM

        llm = LLM(config=config)
    notes().print(f"[dim]{llm.model_name}: {llm.plan}[/]")
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


def stream_answer(llm: "LLM", prompt: Sequence[int], given: Given, *, verbose: bool = False) -> str | None:
    """Writes the answer to standard output while it is generated. Returns it; None where Ctrl-C ended it.

    `verbose` adds a line of figures.
    """
    text, tokens, reused = "", 0, 0
    start = first = perf_counter()
    with stop_on_interrupt() as stopped:
        for delta in llm.stream(prompt, sampling_for(llm, given, len(prompt))):
            first = first if tokens else perf_counter()
            tokens += len(delta.token_ids)
            reused = delta.cached_tokens
            text += delta.text
            write(delta.text)
            if stopped():
                break
    write("\n")
    if stopped():
        return None
    if verbose:
        notes().print(f"[dim]{_figures(len(prompt), reused, tokens, first - start, perf_counter() - first)}[/]")
    return text


def _figures(prompt_tokens: int, reused: int, tokens: int, first: float, rest: float) -> str:
    speed = f", {(tokens - 1) / rest:.1f} tokens/s" if tokens > 1 and rest > 0 else ""
    return f"{prompt_tokens:,} prompt tokens, {reused:,} reused; first token after {first:.2f} s; {tokens} tokens{speed}"
