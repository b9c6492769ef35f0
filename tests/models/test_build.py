"""Which tensors make a model, and what is said about those that do not."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.networks import NETWORKS, Run, weight, weights
from tiercel.models.build import build_model
from tiercel.models.groups import kv_groups
from tiercel.ops import Recorder, load_ops
from tiercel.types import KVGroupSpec, ModelError

NETWORK = NETWORKS["llama"]


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ModelError, match="'gpt' is unknown; known are llama, mistral, qwen2, qwen3"):
        build_model(replace(NETWORK.config, architecture="gpt"), weights(NETWORK), Recorder())


def test_a_missing_tensor_is_named_with_its_shape() -> None:
    tensors = {name: tensor for name, tensor in weights(NETWORK).items() if "layers.1.self_attn.k_proj" not in name}
    with pytest.raises(ModelError, match=r"needs a tensor model\.layers\.1\.self_attn\.k_proj\.weight \[32, 64\]"):
        build_model(NETWORK.config, tensors, Recorder())


def test_a_misshaped_tensor_is_named_with_both_shapes() -> None:
    tensors = {**weights(NETWORK), "model.norm.weight": weight(np.ones(63))}
    with pytest.raises(ModelError, match=r"tensor model\.norm\.weight is \[63\]; .* call for \[64\]"):
        build_model(NETWORK.config, tensors, Recorder())


def test_tensors_without_a_place_are_named() -> None:
    bias = {f"model.layers.0.mlp.down_proj.{i}": weight(np.ones(4)) for i in range(7)}
    with pytest.raises(ModelError, match=r"no place for model\.layers\.0\.mlp\.down_proj\.0, .* and 2 more"):
        build_model(NETWORK.config, {**weights(NETWORK), **bias}, Recorder())
    with pytest.raises(ModelError, match=r"no place for .*q_proj\.bias"):
        build_model(replace(NETWORKS["qwen2"].config, qkv_bias=False), weights(NETWORKS["qwen2"]), Recorder())


def test_what_others_determine_may_be_there() -> None:
    """The head of a model with tied embeddings, and rotary frequencies of old checkpoints: results do not change."""
    tied = replace(NETWORK.config, tie_embeddings=True)
    extras = {**weights(NETWORK), "model.layers.0.self_attn.rotary_emb.inv_freq": weight(np.ones(8))}
    plain = {name: tensor for name, tensor in weights(NETWORK).items() if name != "lm_head.weight"}
    with_extras, without = (Run(tied, tensors, load_ops()).logits({"a": [1, 2, 3]})["a"] for tensors in (extras, plain))
    np.testing.assert_array_equal(with_extras, without)


@pytest.mark.parametrize(
    ("windowed", "expected"),
    [
        ((), [KVGroupSpec((0, 1, 2, 3))]),
        ((0, 1, 2, 3), [KVGroupSpec((0, 1, 2, 3), 20)]),
        ((0, 2), [KVGroupSpec((0, 2), 20), KVGroupSpec((1, 3))]),
        ((3,), [KVGroupSpec((0, 1, 2)), KVGroupSpec((3,), 20)]),
    ],
)
def test_groups_stand_in_the_order_of_their_first_layers(windowed: tuple[int, ...], expected: list[KVGroupSpec]) -> None:
    config = replace(NETWORK.config, num_layers=4, sliding_window=20, windowed_layers=windowed)
    assert kv_groups(config) == tuple(expected)
