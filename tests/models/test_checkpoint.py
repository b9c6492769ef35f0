"""Opening whole models, whatever they are stored in."""

import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.support.model_files import (
    HIDDEN,
    TEMPLATE,
    gguf_metadata,
    gguf_tensors,
    hf_tensors,
    smollm2_path,
    write_directory,
    write_gguf,
    write_tiny_gguf,
)
from tiercel.models.checkpoint import Checkpoint, open_checkpoint
from tiercel.models.weights import fingerprint
from tiercel.ops import dequantize
from tiercel.types import CheckpointError


def test_one_model_in_two_formats_is_the_same_model(tmp_path: Path) -> None:
    """Same settings, names, values and fingerprint, though the GGUF file keeps q and k rows in another order."""
    directory = open_checkpoint(write_directory(tmp_path / "model", rms_norm_eps=0.0078125))
    file = open_checkpoint(write_tiny_gguf(tmp_path / "model.gguf", llama__attention__layer_norm_rms_epsilon=0.0078125))
    assert set(file.weights) == set(directory.weights) == set(hf_tensors())
    for name, values in hf_tensors().items():
        assert np.array_equal(dequantize(directory.weights[name]), values)
        assert np.array_equal(dequantize(file.weights[name]), values)
    assert file.fingerprint == directory.fingerprint
    assert file.chat_template == directory.chat_template == TEMPLATE
    assert file.name == directory.name == "model"
    assert directory.config.eos_token_ids == directory.tokenizer.eos_token_ids == (258,)
    assert file.config.eos_token_ids == file.tokenizer.eos_token_ids == (258, 256)
    settings = {key: value for key, value in vars(file.config).items() if key != "eos_token_ids"}
    assert settings == {key: value for key, value in vars(directory.config).items() if key != "eos_token_ids"}


def test_smollm2() -> None:
    checkpoint = open_checkpoint(smollm2_path())
    assert checkpoint.name == "SmolLM2-135M-Instruct.Q4_1"
    assert len(checkpoint.weights) == 272
    assert sum(int(np.prod(weight.shape)) for weight in checkpoint.weights.values()) == 134_515_008
    assert checkpoint.weights["model.layers.29.mlp.down_proj.weight"].shape == (576, 1536)
    assert "lm_head.weight" not in checkpoint.weights
    assert checkpoint.tokenizer.vocab_size == checkpoint.config.vocab_size
    assert checkpoint.chat_template is not None
    assert checkpoint.generation_defaults == {}


def test_the_fingerprint_is_of_the_weights_and_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("tiercel.models.checkpoint.fingerprint", lambda weights: taken.append(1) or fingerprint(weights))
    one = open_checkpoint(write_directory(tmp_path / "one"))
    assert taken == []
    assert one.fingerprint == one.fingerprint == fingerprint(one.weights)
    assert taken == [1]
    assert open_checkpoint(write_directory(tmp_path / "two", rope_theta=5000.0)).fingerprint == one.fingerprint
    save_file(hf_tensors(seed=1), tmp_path / "two" / "model.safetensors")
    assert open_checkpoint(tmp_path / "two").fingerprint != one.fingerprint


def test_names_of_downloaded_models(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--some-model" / "snapshots" / ("a" * 40)
    assert open_checkpoint(write_directory(snapshot)).name == "org/some-model"
    (tmp_path / "link").symlink_to(snapshot)
    assert open_checkpoint(tmp_path / "link").name == "org/some-model"


def test_end_tokens_are_those_of_all_files(tmp_path: Path) -> None:
    directory = write_directory(tmp_path, eos_token_id=3)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 5], "do_sample": True, "top_p": 0.5}))
    checkpoint = open_checkpoint(directory)
    assert checkpoint.config.eos_token_ids == checkpoint.tokenizer.eos_token_ids == (4, 5, 258)
    assert checkpoint.generation_defaults == {"top_p": 0.5}


def test_settings_that_do_not_fit_the_weights(tmp_path: Path) -> None:
    for change in ({"vocab_size": 260}, {"hidden_size": 64}):
        directory = write_directory(tmp_path / "model", **change)
        with pytest.raises(
            CheckpointError, match=rf"model\.embed_tokens\.weight is \[259, {HIDDEN}\], but the settings speak of"
        ):
            open_checkpoint(directory)
    path = write_tiny_gguf(tmp_path / "m.gguf", llama__embedding_length=64)
    with pytest.raises(CheckpointError, match="but the settings speak of 259 tokens and 64 channels"):
        open_checkpoint(path)
    save_file({"x": np.zeros(1, np.float32)}, write_directory(tmp_path / "other") / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no model\.embed_tokens\.weight"):
        open_checkpoint(tmp_path / "other")


def test_a_tokenizer_that_does_not_fit_the_model(tmp_path: Path) -> None:
    tensors = hf_tensors(vocab=100)
    directory = write_directory(tmp_path, vocab_size=100, bos_token_id=None, eos_token_id=None)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="eos_token is none of the model's 100 tokens"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    (write_directory(tmp_path) / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(tmp_path)


def test_things_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello, this is a text")
    for path, message in (
        (tmp_path / "text.gguf", "not a GGUF file"),
        (tmp_path / "absent", "cannot read"),
        (tmp_path, "config.json"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], int]:
    """Opens bytes as a GGUF file and uses all of it, or gets a CheckpointError. Returns the peak of Python's memory."""
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"

    def attempt(content: bytes) -> int:
        path.write_bytes(content)
        tracemalloc.start()
        try:
            use(open_checkpoint(path))
        except CheckpointError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    return attempt


def use(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.fingerprint) == 64
    tokenizer = checkpoint.tokenizer
    assert isinstance(tokenizer.decode(tokenizer.encode("hello <|im_end|>")), str)
    assert all(isinstance(tokenizer.token_bytes(i), bytes) for i in range(tokenizer.vocab_size))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "m.gguf"
    return write_gguf(path, gguf_metadata(), gguf_tensors(hf_tensors()), format="Q8_0").read_bytes()


@given(seed=st.integers(0, 2**32), strength=st.integers(1, 12), truncated=st.booleans())
def test_mutated_models(valid: bytes, attempt: Callable[[bytes], int], seed: int, strength: int, truncated: bool) -> None:
    """Bytes flipped, numbers made huge, pieces of the file copied elsewhere: a model or a CheckpointError."""
    source = random.Random(seed)
    header = valid.index(b"output_norm") + 4000
    content = bytearray(valid)
    for _ in range(strength):
        place = source.randrange(header)
        kind = source.randrange(4)
        if kind == 0:
            content[place] = source.randrange(256)
        elif kind == 1:
            content[place : place + 8] = struct.pack("<Q", source.choice([0, 1, 255, 2**31, 2**32, 2**60, 2**63, 2**64 - 1]))
        elif kind == 2:
            other = source.randrange(header)
            content[place : place + 16] = content[other : other + 16]
        else:
            content[place : place + 4] = struct.pack("<I", source.randrange(32))
    if truncated:
        del content[source.randrange(len(content)) :]
    assert attempt(bytes(content)) < 16 * len(valid)


def test_the_unmutated_model_opens(valid: bytes, attempt: Callable[[bytes], int], tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(valid)
    use(open_checkpoint(tmp_path / "m.gguf"))
    assert attempt(valid) < 16 * len(valid)
