"""An engine for one command, and an answer written as it comes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from tiercel.cli.console import notes, waiting, write
from tiercel.config import EngineConfig
from tiercel.types import SamplingParams

if TYPE_CHECKING:
    from tiercel.engine import LLM


@contextmanager
def open_engine(config: EngineConfig) -> "Iterator[LLM]":
    """Loads the model, says how much memory holds how much context, and closes the engine at the end."""
    with waiting(f"loading {config.model}"):
        from tiercel.engine import LLM

        llm = LLM(config=config)
    notes().print(f"[dim]{llm.model_name}: {llm.plan}[/]")
    with closing(llm):
        yield llm


def stream_answer(llm: "LLM", prompt: str, params: SamplingParams, *, verbose: bool = False) -> str:
    """Writes the answer to standard output while it is generated, and returns it. `verbose` adds a line of figures."""
    text, tokens, cached, prompt_tokens = "", 0, 0, 0
    start = first = perf_counter()
    for delta in llm.stream(prompt, params):
        if not tokens:
            first = perf_counter()
        tokens += len(delta.token_ids)
        text += delta.text
        cached, prompt_tokens = delta.cached_tokens, delta.prompt_tokens
        write(delta.text)
    write("\n")
    if verbose:
        seconds = max(perf_counter() - first, 1e-9)
        rate = f", {(tokens - 1) / seconds:.1f} tokens/s" if tokens > 1 else ""
        notes().print(
            f"[dim]{prompt_tokens} prompt tokens, {cached} reused; "
            f"first token after {first - start:.2f} s; {tokens} tokens{rate}[/]"
        )
    return text
