"""Logits against transformers', in float32, on every architecture."""

import numpy as np
import pytest
import torch

from tests.support.networks import NETWORKS, VOCAB, Network, Run, expected_logits, oracle, weights
from tiercel.ops import load_ops

TOLERANCE = 1e-4  # of the largest logit
LENGTHS = {"a": 5, "b": 300, "c": 1, "d": 70}


def prompts() -> dict[str, tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return {name: tuple(rng.integers(0, VOCAB, length).tolist()) for name, length in LENGTHS.items()}


def error(network: Network, actual: dict[str, np.ndarray]) -> float:
    """The largest difference as a part of the largest logit."""
    expected = {name: expected_logits(network, prompts()[name]) for name in actual}
    largest = max(np.abs(logits).max() for logits in expected.values())
    return float(max(np.abs(actual[name] - expected[name]).max() for name in actual) / largest)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_mixed_lengths(name: str) -> None:
    network = NETWORKS[name]
    run = Run(network.config, weights(network), load_ops())
    assert error(network, run.logits(prompts())) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_and_single_tokens_side_by_side(name: str) -> None:
    network = NETWORKS[name]
    run = Run(network.config, weights(network), load_ops())
    left = {name: list(tokens) for name, tokens in prompts().items()}
    seen: dict[str, list[np.ndarray]] = {name: [] for name in left}
    sizes = np.random.default_rng(5)
    while any(left.values()):
        cut = {name: int(sizes.choice([0, 1, 1, 7, 40, 130])) for name in left}
        chunks = {name: tokens[: cut[name]] for name, tokens in left.items() if tokens[: cut[name]]}
        left = {name: tokens[cut[name] :] for name, tokens in left.items()}
        for name, logits in (run.logits(chunks) if chunks else {}).items():
            seen[name].append(logits)
    assert error(network, {name: np.concatenate(parts) for name, parts in seen.items()}) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_matters(name: str) -> None:
    """The comparison means something: rows attend to few keys, and not just to themselves."""
    network = NETWORKS[name]
    with torch.inference_mode():
        layers = oracle(network)(torch.tensor([prompts()["d"]]), output_attentions=True).attentions
    for attention in layers:
        late_rows = attention[0, :, 30:]
        assert late_rows.amax(-1).mean() > 0.25
        assert late_rows.diagonal(offset=30, dim1=1, dim2=2).mean() < 0.5
