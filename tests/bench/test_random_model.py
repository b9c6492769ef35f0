"""Random models in known shapes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tiercel import LLM
from tiercel.bench import random_model as module
from tiercel.bench.measure import fixed_length
from tiercel.bench.random_model import STD, random_model, write_random_model
from tiercel.bench.shapes import SHAPES, products
from tiercel.models import open_checkpoint
from tiercel.types import InvalidInput

SMALL = replace(SHAPES["qwen2.5-0.5b"], vocab_size=1000, hidden_size=128, intermediate_size=192, num_layers=2, num_heads=4)


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_what_was_asked_for(name: str, tmp_path: Path) -> None:
    config = replace(SHAPES[name], vocab_size=300, num_layers=1)
    checkpoint = open_checkpoint(write_random_model(tmp_path / "model", config))
    assert replace(checkpoint.config, eos_token_ids=()) == config
    assert checkpoint.tokenizer.vocab_size == 300
    assert sum(p.rows * p.columns * p.times for p in products(config)) == sum(
        w.shape[0] * w.shape[1] for w in checkpoint.weights.values() if len(w.shape) == 2
    )


def test_weights_are_drawn_as_networks_begin(tmp_path: Path) -> None:
    weights = open_checkpoint(write_random_model(tmp_path / "model", SMALL)).weights
    table = (weights["model.embed_tokens.weight"].data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert abs(table.std() / STD - 1) < 0.02
    assert abs(table.mean()) < 0.001
    norm = weights["model.norm.weight"].data.view(np.uint16)
    assert set(norm.tolist()) == {0x3F80}
    assert set(weights["model.layers.1.self_attn.k_proj.bias"].data.tolist()) == {0}


def test_it_runs_and_texts_survive(tmp_path: Path) -> None:
    with LLM(str(write_random_model(tmp_path / "model", SMALL)), kv_memory="8MiB", kv_disk="off") as llm:
        assert llm.tokenizer.decode(llm.tokenizer.encode("Grüße, 日本\n")) == "Grüße, 日本\n"
        assert len(llm.generate([5, 999, 300], fixed_length(4))[0].samples[0].token_ids) == 4


def test_the_folder_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SHAPES, "small", SMALL)
    with random_model("small") as path:
        assert (path.name, open_checkpoint(path).config.vocab_size) == ("small", 1000)
    assert not path.parent.exists()


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(InvalidInput, match="shape: must be one of"), random_model("gpt-5"):
        pass
