"""`tiercel demo`: a long essay, several questions, and what the KV cache makes of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import typer

from tiercel.bench import texts
from tiercel.cli.answer import Answer
from tiercel.cli.console import notes, remark, waiting, write
from tiercel.cli.fresh_store import fresh_store
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import SamplingParams, TiercelError

if TYPE_CHECKING:
    from tiercel.engine import AsyncLLM, Delta

ESSAY_TITLE = "Paul Graham, Is It Worth Being Wise? (February 2007)"

SYSTEM = "You answer questions about an essay in one short sentence, in its own words."
EXAMPLE = ("When was this essay written?", "In February 2007.")  # shows so small a model what an answer looks like
IN_TURN = (
    "What is wisdom?",
    "What did Confucius claim proudly?",
    "Which ancient philosophers saw themselves as teachers of administrators?",
)
SIDE_BY_SIDE = (
    "How does the essay define a wise person?",
    "What is the difference between wise and smart?",
    "What happens to the value of understanding French?",
    "How do people react when things go well?",
)
SAMPLING = SamplingParams(max_tokens=48, temperature=0.0)


def register(app: typer.Typer, about: str) -> None:
    app.command("demo", help=about)(demo)


@takes(engine=ENGINE)
def demo(engine: EngineConfig) -> None:
    essay = texts.read_essay()
    with fresh_store(engine) as config:  # every demo starts with nothing in the cache
        asyncio.run(_show(config, essay))


async def _show(config: EngineConfig, essay: str) -> None:
    async with _engine(config) as llm:
        _say(f"The essay: {ESSAY_TITLE}, {len(llm.tokenizer.encode(essay)):,} tokens. It stands before every question.")
        _say("One question after another: the first reads the essay, the others find its keys and values in the cache.")
        in_turn = {question: await _ask(llm, essay, question) for question in IN_TURN}
        _say(f"Now {len(SIDE_BY_SIDE)} questions side by side, one batch over one copy of the essay:")
        start = perf_counter()
        together = await _ask_together(llm, essay, SIDE_BY_SIDE)
        seconds = perf_counter() - start
        pid = llm.pid
    again = await _ask_after_restart(config, essay, pid) if config.kv_disk != "off" else {}
    _show_table(in_turn | together | again)
    cold, *warm = in_turn.values()
    slowest = max(answer.first for answer in warm)
    tokens = sum(answer.num_tokens for answer in together.values())
    if any(answer.text != cold.text for answer in again.values()):
        raise TiercelError("the answer after the restart is another than before; the same prompt must give the same answer")
    restarted = "".join(f", {answer.first:.2f} s after a restart, with the same answer" for answer in again.values())
    _say(
        f"First token: {cold.first:.2f} s cold, {slowest:.2f} s or less warm{restarted}. "
        f"Side by side: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} per second. "
        "The answers stand as the model gave them; it is a small one."
    )


@asynccontextmanager
async def _engine(config: EngineConfig) -> AsyncIterator["AsyncLLM"]:
    """An engine in a process of its own, which ends with the context."""
    with waiting(f"loading {config.model}"):
        from tiercel.engine import AsyncLLM

        llm = await AsyncLLM.start(config)
    remark(f"{llm.model_name}: {llm.plan}; process {llm.pid}")
    async with llm:
        yield llm


async def _ask(llm: "AsyncLLM", essay: str, question: str) -> Answer:
    notes().print(f"\n[bold]{question}[/]")
    prompt = _prompt(llm, essay, question)
    with ExitStack() as until_it_speaks:
        until_it_speaks.enter_context(waiting(f"reading {len(prompt):,} tokens"))

        def show(text: str) -> None:
            until_it_speaks.close()
            write(text)

        answer = await _answer(llm, prompt, show)
    write("\n")
    remark(str(answer))
    return answer


async def _ask_together(llm: "AsyncLLM", essay: str, questions: Sequence[str]) -> dict[str, Answer]:
    prompts = [_prompt(llm, essay, question) for question in questions]
    with waiting(f"answering {len(prompts)} questions at once"):
        answers = await asyncio.gather(*(_answer(llm, prompt) for prompt in prompts))
    for question, answer in zip(questions, answers, strict=True):
        notes().print(f"\n[bold]{question}[/]")
        write(answer.text + "\n")
    return dict(zip(questions, answers, strict=True))


async def _ask_after_restart(config: EngineConfig, essay: str, old: int) -> dict[str, Answer]:
    """The first question once more, in a new process: all it has of the essay is what the old one left on disk."""
    _say(f"Process {old} has ended, and its memory with it. A new one starts, and gets the first question again:")
    async with _engine(config) as llm:
        answer = await _ask(llm, essay, IN_TURN[0])
    stored = f"{answer.stored_tokens:,}"
    _say(f"Process {llm.pid} took the keys and values of {stored} tokens from disk, where process {old} had written them.")
    return {"after restart": answer}


async def _answer(llm: "AsyncLLM", prompt: Sequence[int], show: Callable[[str], None] | None = None) -> Answer:
    """A whole answer; its pieces go to `show` as they come."""
    deltas: list[Delta] = []
    start, first = perf_counter(), 0.0
    async for delta in llm.generate(prompt, SAMPLING):
        first = first or perf_counter()
        deltas.append(delta)
        if show is not None:
            show(delta.text)
    rest = perf_counter() - first
    reuse = deltas[0].reuse
    assert reuse is not None, "the first delta tells what was reused"
    num_tokens = sum(len(delta.token_ids) for delta in deltas)
    reused = reuse.device_tokens + reuse.stored_tokens
    text = "".join(delta.text for delta in deltas)
    return Answer(text, num_tokens, len(prompt), reused, first - start, rest, reuse.stored_tokens)


def _prompt(llm: "AsyncLLM", essay: str, question: str) -> list[int]:
    """The essay first and the question last, so that all prompts share the essay as their prefix."""
    return llm.encode_chat(
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{essay}\n\n{EXAMPLE[0]}"},
            {"role": "assistant", "content": EXAMPLE[1]},
            {"role": "user", "content": question},
        ]
    )


def _show_table(answers: dict[str, Answer]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="prompt, reused: tokens; TTFT: time to first token", caption_justify="left")
    table.add_column("question", overflow="ellipsis", no_wrap=True, max_width=34)
    for name in ("prompt", "reused", "TTFT, s", "tokens/s"):
        table.add_column(name, justify="right")
    for question, answer in answers.items():
        figures = f"{answer.prompt_tokens:,}", f"{answer.reused_tokens:,}", f"{answer.first:.2f}", f"{answer.speed:.1f}"
        table.add_row(question, *figures, style="bold" if answer.reused_tokens == 0 else None)
    notes().print()
    notes().print(table)


def _say(text: str) -> None:
    notes().print(f"\n[cyan]{text}[/]")
