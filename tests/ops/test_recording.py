"""What a recorded model is: a list that computes the same bits, for any rows and requests."""

import numpy as np
import pytest

from tests.support.networks import NETWORKS, VOCAB, Network, Run, groups, weights
from tiercel.models.build import build_model
from tiercel.ops import Program, Recorder, load_ops
from tiercel.types import KVLayout

OPS = load_ops()


def record(network: Network) -> Program:
    recorder = Recorder()
    return recorder.record(build_model(network.config, weights(network), recorder), len(groups(network.config)))


@pytest.mark.parametrize("name", NETWORKS)
def test_replay_is_bit_equal_for_every_batch(name: str) -> None:
    network = NETWORKS[name]
    direct, replayed = (Run(network.config, weights(network), OPS) for _ in range(2))
    replayed.model = record(network).load(OPS)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 400)
    for chunks in ({"a": tokens[:90]}, {"a": tokens[90:91], "b": tokens[:3], "c": tokens[:40]}, {"c": tokens[40:41]}):
        expected, actual = direct.logits(chunks), replayed.logits(chunks)
        for name in chunks:
            np.testing.assert_array_equal(actual[name], expected[name])


def test_a_program_does_not_depend_on_the_recording() -> None:
    """Nothing of a step is in it, so that recording again, also elsewhere, gives the same list."""
    network = NETWORKS["qwen3-window"]
    recorder = Recorder()
    model = build_model(network.config, weights(network), recorder)
    first, again, elsewhere = recorder.record(model, 2), recorder.record(model, 2), record(network)
    assert first.calls == again.calls == elsewhere.calls
    assert (first.constants, first.inputs.token_ids, first.result) == (again.constants, again.inputs.token_ids, again.result)


def test_the_list_names_ops_and_constants() -> None:
    network = NETWORKS["llama"]
    program = record(network)
    ops = [call.op for call in program.calls]
    layer = [
        *("rms_norm", "linear", "split", "rope", "rope", "kv_write", "attention", "linear", "add"),
        *("rms_norm", "linear", "split", "silu_mul", "linear", "add"),
    ]
    assert ops == ["embedding", *layer * 2, "select_rows", "rms_norm", "linear"]
    attention = [call for call in program.calls if call.op == "attention"]
    assert [call.arguments[2] for call in attention] == [0, 1]
    assert attention[0].options == {"scale": 0.25, "window": None}
    assert {call.op for call in program.constants} == {"pack", "pack_rope"}


def test_a_pair_of_results_is_recorded_as_a_pair() -> None:
    recorder = Recorder()
    program = recorder.record(
        lambda ops, inputs, kv: ops.attention(inputs.token_ids, kv[0], 0, inputs.batches[0], scale=1.0, return_lse=True)[1], 1
    )
    (call,) = program.calls
    assert isinstance(call.output, tuple)
    assert program.result == call.output[1]


def test_a_recorder_takes_no_steps() -> None:
    with pytest.raises(NotImplementedError, match="load the program on a back end"):
        Recorder().bind_kv(np.zeros(0, np.uint8), KVLayout((0,), 1, 8))
