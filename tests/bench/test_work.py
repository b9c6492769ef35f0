"""What a model costs, counted by hand for a small network."""

from pathlib import Path

import pytest

from tiercel import LLM
from tiercel.bench.random_model import write_random_model
from tiercel.bench.work import ModelWork, Reach, compiled_model
from tiercel.types import KVGroup, KVLayout, ModelConfig, RopeConfig

MODEL = ModelConfig(
    architecture="llama",
    vocab_size=320,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    rms_norm_eps=1e-5,
    rope=RopeConfig(head_dim=32),
    max_position=256,
    tie_embeddings=True,
)
# q and o: 64 x 128 each, k and v: 64 x 64 each, gate, up and down: 64 x 128 each; two layers
LAYERS = 2 * (2 * 64 * 128 + 2 * 64 * 64 + 3 * 64 * 128)
HEAD = 320 * 64
SCALES = 4 * (2 * (128 + 2 * 64 + 64 + 2 * 128 + 64) + 320)  # of int8: one per row
PER_KEY = 2 * 2 * 4 * 32  # q k and p v, layers, heads, dims


def test_in_float32() -> None:
    groups = [KVGroup(KVLayout((0,), 2, 32)), KVGroup(KVLayout((1,), 2, 32), window=16)]
    work = ModelWork.of_float32(MODEL, groups)
    token_bytes = 2 * 2 * 32 * 4
    assert work.weight_bytes == 4 * (LAYERS + HEAD)
    assert work.kv == (Reach(token_bytes, None), Reach(token_bytes, 16))
    assert work.kv_bytes(100) == token_bytes * (100 + 16)
    assert (work.per_row, work.per_sample, work.attention_per_key) == ({"float32": LAYERS}, {"float32": HEAD}, PER_KEY)
    assert work.attention_operations(3) == 2 * PER_KEY * (1 + 2 + 3)
    assert work.step_bytes([1, 2]) == work.weight_bytes + 3 * 2 * token_bytes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "small", MODEL)


def test_of_an_engine_on_the_reference(model: Path) -> None:
    with LLM(str(model), backend="reference", kv_memory="8MiB", kv_disk="off") as llm:
        assert compiled_model(llm) is None
        assert ModelWork.of(llm).weight_bytes == 4 * (LAYERS + HEAD)


@pytest.mark.parametrize(
    ("dtype", "weight_bytes", "in_layers", "in_head"),
    [
        ("bf16", 2 * (LAYERS + HEAD), {"bf16": LAYERS}, {"bf16": HEAD}),
        ("int8", LAYERS + HEAD + SCALES, {"int8": LAYERS}, {"int8": HEAD}),
        ("int4", LAYERS * 20 // 32 + HEAD * 34 // 32, {"int8": LAYERS}, {"int8": HEAD}),
    ],
)
def test_as_an_engine_packed_it(model: Path, dtype: str, weight_bytes: int, in_layers: dict, in_head: dict) -> None:
    with LLM(str(model), backend="cpu", dtype=dtype, kv_memory="8MiB", kv_disk="off") as llm:
        work = ModelWork.of(llm)
    assert (work.weight_bytes, work.per_row, work.per_sample) == (weight_bytes, in_layers, in_head)
    assert work.kv == (Reach(2 * 2 * 2 * 32 * 2, None),)
    assert (work.attention_per_key, work.attention_kind) == (PER_KEY, "bf16")
