"""The long-prompt benchmark on a tiny model, and its arithmetic on made-up steps."""

from pathlib import Path

import pytest

from tiercel import LLM
from tiercel.bench.long import Chunk, Line, line_rows, long_rows, measure_long
from tiercel.bench.workload import Workload
from tiercel.types import InvalidInput


def quiet(text: str) -> None:
    """Nobody watches."""


def steps(count: int, seconds: object = lambda context: 0.01 + 2e-6 * context) -> list[Chunk]:
    return [Chunk(at, 512, seconds(at + 256.5)) for at in range(0, 512 * count, 512)]  # type: ignore[operator]


def test_a_line_explains_steps_that_grow_with_context() -> None:
    line = Line.through(steps(16))
    assert (line.fixed, line.per_token) == (pytest.approx(0.01), pytest.approx(2e-6))


def test_stray_steps_do_not_move_the_line() -> None:
    chunks = steps(16)
    chunks[3] = Chunk(chunks[3].context, 512, 5.0)
    assert Line.through(chunks).per_token == pytest.approx(2e-6, rel=0.05)


def test_a_drop_in_rate_shows() -> None:
    chunks = steps(32, lambda context: (0.01 + 2e-6 * context) * (1 if context < 12_000 else 1.5))
    rows = long_rows([chunks])
    shares = [row["time / line of the first half"].median for row in rows]
    assert shares[:4] == pytest.approx([1.0] * 4)
    assert shares[-1] == pytest.approx(1.5)
    assert [row["tokens"] for row in rows] == [2048 * part for part in range(1, 9)]
    assert rows[-1]["seconds so far"].median == pytest.approx(sum(chunk.seconds for chunk in chunks))
    assert rows[0]["tokens/s here"].median > rows[-1]["tokens/s here"].median
    assert [row["value"].median for row in line_rows([steps(32)])] == pytest.approx([10.0, 2.0])


def test_every_whole_step_of_a_prefill_counts(tiny_model: Path) -> None:
    with LLM(str(tiny_model), kv_memory="16MiB", max_num_batched_tokens=64, kv_disk="off") as llm:
        measured = measure_long(llm, 1030, 2, Workload(llm.tokenizer.vocab_size), quiet)
        assert [[chunk.context for chunk in chunks] for chunks in measured] == [list(range(0, 1024, 64))] * 2
        assert all(chunk.seconds > 0 for chunks in measured for chunk in chunks)
        with pytest.raises(InvalidInput, match="prompt_tokens"):
            measure_long(llm, 1023, 1, Workload(llm.tokenizer.vocab_size), quiet)
