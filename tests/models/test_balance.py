"""Balanced weights: the same model, and less lost in 8 bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench.test_work import MODEL
from tests.support.networks import Run
from tiercel.bench.quality import BF16, Formats, measure_quality
from tiercel.bench.random_model import write_random_model
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.models import Checkpoint, kv_groups, open_checkpoint
from tiercel.models.balance import PLACES, Balanced, Watched, watch
from tiercel.models.build import build_model
from tiercel.ops import load_ops
from tiercel.ops.cpu import CpuOps
from tiercel.ops.dequantize import dequantize
from tiercel.types import FORMATS, KVGroup, KVLayout, Weight

TEXT = Workload(320).prompt(40)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random, but for channels behind norms, of which some are far larger than the rest."""
    path = write_random_model(tmp_path_factory.mktemp("models") / "small", MODEL)
    found = open_checkpoint(Path(path))
    rng = np.random.default_rng(1)
    weights = {name: uneven(weight, rng) if "layernorm" in name else weight for name, weight in found.weights.items()}
    return replace(found, weights=weights)


def uneven(weight: Weight, rng: np.random.Generator) -> Weight:
    values = dequantize(weight) * np.exp(1.5 * rng.standard_normal(weight.shape)).astype(np.float32)
    return Weight(values.view(np.uint8), FORMATS["F32"], weight.shape)


def groups(checkpoint: Checkpoint) -> list[KVGroup]:
    model = checkpoint.config
    specs = kv_groups(model)
    return [KVGroup(KVLayout(spec.layers, model.num_kv_heads, model.head_dim), spec.window) for spec in specs]


def magnitudes(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    watched = Watched(load_ops("reference"))
    watch(build_model(checkpoint.config, checkpoint.weights, watched), watched, checkpoint.config, groups(checkpoint))
    return watched.magnitudes({id(weight): name for name, weight in checkpoint.weights.items()})


def logits(checkpoint: Checkpoint, weights: object) -> np.ndarray:
    return Run(checkpoint.config, weights, load_ops("reference")).logits({"a": TEXT})["a"]


def test_every_reader_is_measured(checkpoint: Checkpoint) -> None:
    found = magnitudes(checkpoint)
    layers = range(checkpoint.config.num_layers)
    expected = {f"model.layers.{layer}.{name}" for layer in layers for place in PLACES for name in place.readers}
    assert expected <= found.keys()
    norm = np.abs(dequantize(checkpoint.weights["model.layers.0.input_layernorm.weight"]))
    assert np.corrcoef(found["model.layers.0.self_attn.q_proj.weight"], norm)[0, 1] > 0.9


def test_the_model_stays_the_same(checkpoint: Checkpoint) -> None:
    balanced = Balanced(checkpoint.weights, magnitudes(checkpoint), checkpoint.config)
    assert list(balanced) == list(checkpoint.weights)
    assert balanced["model.embed_tokens.weight"] is checkpoint.weights["model.embed_tokens.weight"]
    before = logits(checkpoint, checkpoint.weights)
    assert np.abs(logits(checkpoint, balanced) - before).max() < 1e-4 * np.abs(before).max()


def test_factors_are_powers_of_two_and_make_columns_as_large_as_inputs(checkpoint: Checkpoint) -> None:
    sizes = magnitudes(checkpoint)
    balanced = Balanced(checkpoint.weights, sizes, checkpoint.config)
    name = "model.layers.0.mlp.gate_proj.weight"
    before, after = dequantize(checkpoint.weights[name]), dequantize(balanced[name])
    factors = (after / before)[0]
    assert (np.exp2(np.round(np.log2(factors))) == factors).all()
    assert (after == before * factors).all()
    inputs, columns = np.log2(sizes[name] / factors), np.log2(np.sqrt((after**2).mean(axis=0)))
    spread = np.log2(sizes[name]) - np.log2(np.sqrt((before**2).mean(axis=0)))
    assert np.std(inputs - columns) < 0.65 < 1.5 < np.std(spread)


def test_8_bits_lose_less(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.bench.reading.load_checkpoint", lambda config: checkpoint)
    windows, int8 = np.array([TEXT], np.int32), Formats("int8", "bfloat16")

    def divergence() -> float:
        return measure_quality(EngineConfig(kv_disk="off"), [BF16, int8], windows, lambda text: None)[int8].divergence

    balanced = divergence()
    monkeypatch.setattr(CpuOps, "balances", False)
    assert balanced < 0.9 * divergence()
