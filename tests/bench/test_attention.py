"""The attention benchmark on small shapes."""

import pytest

from tests.bench.test_work import MODEL
from tiercel.bench import attention
from tiercel.bench.attention import AttentionTiming, attention_rows, measure_contexts, vector_rate
from tiercel.bench.limits import MachineLimits
from tiercel.bench.measure import Summary
from tiercel.bench.programs import open_pool

LIMITS = MachineLimits({"somebody": 100.0}, {"bf16": 1000.0, "int8": 4000.0})


def quiet(text: str) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.SHAPES, "small", MODEL)
    monkeypatch.setattr(attention, "CHUNK", 16)
    monkeypatch.setattr(attention, "BEFORE", (0, 70))
    monkeypatch.setattr(attention, "REQUESTS", 3)


def test_chunks_and_many_contexts_are_measured() -> None:
    pool = open_pool(2)
    assert pool is not None
    timings = list(measure_contexts(pool, ["small"], 2, quiet))
    assert [(t.requests, t.rows, t.context) for t in timings] == [(1, 16, 16), (1, 16, 86), (3, 1, 300)]
    assert [t.pairs for t in timings] == [MODEL.num_heads * n for n in (16 * 17 // 2, sum(range(71, 87)), 3 * 300)]
    token_bytes = 2 * MODEL.num_kv_heads * MODEL.head_dim * 2
    assert [t.num_bytes for t in timings] == [16 * token_bytes, 86 * token_bytes, 900 * token_bytes]
    assert all(seconds > 0 for timing in timings for seconds in timing.seconds.values)
    assert vector_rate(pool, 1) > 0


def test_the_bound_of_a_chunk_counts_products_and_exponentials() -> None:
    chunk = AttentionTiming("small", 1, 16, 86, 32, Summary.once(4.0), 10.0, 50)
    many = AttentionTiming("small", 3, 1, 300, 32, Summary.once(4.0), 10.0, 50)
    first, second = attention_rows([chunk, many], LIMITS, lanes=100.0)
    assert first["bound, ms"] == pytest.approx(1e3 * (4 * 32 * 10 / 1000 + 8 * 10 / 100))
    assert first["of the bound, %"] == pytest.approx(100 * (1.28 + 0.8) / 4)
    assert (second["bound, ms"], second["of the bound, %"]) == (500.0, 12.5)
