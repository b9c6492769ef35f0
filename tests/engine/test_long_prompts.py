"""Prompts of tens of thousands of tokens, on a network that is small enough for them."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tiercel import LLM, SamplingParams
from tiercel.bench.random_model import write_random_model
from tiercel.types import BLOCK_TOKENS, ModelConfig, RopeConfig

TOKENS = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
SMALL = ModelConfig(
    architecture="llama",
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    rms_norm_eps=1e-5,
    rope=RopeConfig(32, theta=1_000_000.0),
    max_position=70_000,
    tie_embeddings=True,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "small", SMALL)


@pytest.fixture
def engine(model: Path):
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(LLM(str(model), kv_disk="off", model_cache="off", **settings))


@pytest.mark.parametrize(
    ("length", "kv_dtype"), [(32_768, "bfloat16"), (65_536, "bfloat16"), (65_536, "int8"), (32_768, "int4")]
)
def test_a_long_prompt_runs_to_the_end(engine: Callable[..., LLM], length: int, kv_dtype: str) -> None:
    """Its tokens do not depend on the size of its chunks, and all of its whole blocks are found again."""
    prompt = np.random.default_rng(length).integers(256, SMALL.vocab_size, length).tolist()
    llm = engine(kv_dtype=kv_dtype, max_num_batched_tokens=512)
    (cold,), (warm,) = llm.generate([prompt], TOKENS), llm.generate([prompt], TOKENS)
    (other,) = engine(kv_dtype=kv_dtype, max_num_batched_tokens=2000).generate([prompt], TOKENS)
    assert cold.samples[0].token_ids == warm.samples[0].token_ids == other.samples[0].token_ids
    assert (cold.cached_tokens, warm.cached_tokens) == (0, (length - 1) // BLOCK_TOKENS * BLOCK_TOKENS)
