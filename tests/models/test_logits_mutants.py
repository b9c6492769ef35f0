"""What the comparison of logits is worth: every one of these small mistakes must fail it by far."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from tests.models.test_logits import TOLERANCE, error, prompts
from tests.support.networks import NETWORKS, Run, weight, weights
from tiercel.ops import load_ops
from tiercel.types import ModelConfig, Weight

MARGIN = 100  # times the tolerance


class Mutant(NamedTuple):
    network: str
    settings: Callable[[ModelConfig], ModelConfig] = lambda config: config
    tensors: Callable[[ModelConfig, Mapping[str, Weight]], Mapping[str, Weight]] = lambda config, tensors: tensors


def settings(**changes: object) -> Callable[[ModelConfig], ModelConfig]:
    return lambda config: replace(config, **changes)


def rope(**changes: object) -> Callable[[ModelConfig], ModelConfig]:
    return lambda config: replace(config, rope=replace(config.rope, **changes))


def values(stored: Weight) -> np.ndarray:
    return stored.data.view(np.float32).reshape(stored.shape)


def swapped(first: str, second: str) -> Callable[[ModelConfig, Mapping[str, Weight]], Mapping[str, Weight]]:
    """Exchanges two tensors of every layer."""

    def change(config: ModelConfig, tensors: Mapping[str, Weight]) -> Mapping[str, Weight]:
        names = {name: name.replace(first, "@").replace(second, first).replace("@", second) for name in tensors}
        return {name: tensors[other] for name, other in names.items()}

    return change


def mapped(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Mapping[str, Weight]]:
    """Changes the values of the tensors whose names hold `part`."""
    return lambda config, tensors: {
        name: weight(change(values(stored))) if part in name else stored for name, stored in tensors.items()
    }


def gguf_order(config: ModelConfig, tensors: Mapping[str, Weight]) -> Mapping[str, Weight]:
    """Rows of q and k as GGUF files of the llama architecture hold them."""

    def reorder(matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(-1, 2, config.head_dim // 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)

    return mapped("k_proj", reorder)(config, mapped("q_proj", reorder)(config, tensors))


MUTANTS = {
    "rope base": Mutant("llama", rope(theta=11_000.0)),
    "rope pairs": Mutant("llama", rope(interleaved=True)),
    "q and k permuted": Mutant("llama", tensors=gguf_order),
    "eps": Mutant("llama", settings(rms_norm_eps=1e-6)),
    "eps of qwen3": Mutant("qwen3", settings(rms_norm_eps=1e-6)),
    "gate and up exchanged": Mutant("llama", tensors=swapped("gate_proj", "up_proj")),
    "norms exchanged": Mutant("llama", tensors=swapped("input_layernorm", "post_attention_layernorm")),
    "linear factor": Mutant("llama-linear", rope(factor=4.2)),
    "llama3 factor": Mutant("llama-llama3", rope(factor=7.0)),
    "llama3 low frequencies": Mutant("llama-llama3", rope(low_freq_factor=1.2)),
    "llama3 high frequencies": Mutant("llama-llama3", rope(high_freq_factor=5.0)),
    "llama3 window": Mutant("llama-llama3", rope(original_max_position=160)),
    "yarn factor": Mutant("llama-yarn", rope(factor=4.4, attention_factor=0.1 * np.log(4.0) + 1)),
    "yarn attention factor": Mutant("llama-yarn", rope(attention_factor=1.0)),
    "yarn window": Mutant("llama-yarn", rope(original_max_position=256)),
    "yarn truncation": Mutant("llama-yarn-untruncated", rope(truncate=True)),
    "yarn beta": Mutant("llama-yarn-untruncated", rope(beta_slow=1.0)),
    "window one wider": Mutant("mistral-window", settings(sliding_window=21)),
    "window one narrower": Mutant("mistral-window", settings(sliding_window=19)),
    "no window": Mutant("mistral-window", settings(windowed_layers=())),
    "window in other layers": Mutant("qwen2-upper-window", settings(windowed_layers=(0, 1))),
    "kv heads exchanged": Mutant("qwen2", tensors=mapped("k_proj", lambda x: np.roll(x, len(x) // 2, axis=0))),
    "no bias": Mutant("qwen2", tensors=mapped("v_proj.bias", np.zeros_like)),
    "q and k norms exchanged": Mutant("qwen3", tensors=swapped("q_norm", "k_norm")),
    "embedding as head": Mutant("llama", settings(tie_embeddings=True)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_by_far(name: str) -> None:
    network, change_settings, change_tensors = MUTANTS[name]
    config = NETWORKS[network].config
    run = Run(change_settings(config), change_tensors(config, weights(NETWORKS[network])), load_ops())
    assert error(NETWORKS[network], run.logits(prompts())) > MARGIN * TOLERANCE
