"""The safetensors parser against the library that defines the format, and against files made to break it."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from tests.support.model_files import hf_config, hf_tensors
from tiercel.models.safetensors import read_file, read_metadata, read_safetensors, write_float32
from tiercel.models.weights import StoredWeights
from tiercel.types import CheckpointError

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@pytest.mark.parametrize("dtype", NAMES)
def test_bytes_and_shapes_equal_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate([(3, 5), (7,), (2, 3, 4), (0, 4), (1, 1)])}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = read_safetensors(tmp_path)
    assert set(weights) == set(tensors)
    assert len(weights) == len(tensors)
    with safe_open(tmp_path / "model.safetensors", "pt") as reference:
        for name, weight in weights.items():
            expected = reference.get_tensor(name)
            assert weight.format.name == NAMES[dtype]
            assert weight.shape == tuple(expected.shape)
            assert weight.data.tobytes() == expected.contiguous().view(torch.uint8).numpy().tobytes()


def test_what_we_write_is_what_the_reference_reads(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(7), "ü.weight": torch.randn(1, 1, 2)}
    save_file(tensors, tmp_path / "reference.safetensors")
    weights = StoredWeights("reference", read_file(tmp_path / "reference.safetensors"))
    path = tmp_path / "model.safetensors"
    write_float32(path, {name: weight.shape for name, weight in weights.items()}, weights, {"key": "tëxt"})
    assert {name: tensor.tolist() for name, tensor in load_file(path).items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }
    with safe_open(path, "pt") as reference:
        assert reference.metadata() == read_metadata(tmp_path) == {"format": "pt", "key": "tëxt"}
    assert list(read_file(path)) == ["a", "b", "ü.weight"]
    with pytest.raises(FileExistsError):
        write_float32(path, {}, {}, {})


@pytest.mark.parametrize("metadata", [None, 3, "x", ["a", "b"], {"a": 1, "b": None, "c": {}, "d": ["x"]}])
def test_metadata_that_is_no_text_is_none(tmp_path: Path, metadata: object) -> None:
    (tmp_path / "model.safetensors").write_bytes(make(GOOD | {"__metadata__": metadata}))
    assert read_metadata(tmp_path) == {}
    assert set(read_safetensors(tmp_path)) == {"t"}


def test_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    save_file({"t": torch.ones(1000, 1000)}, tmp_path / "model.safetensors")
    tracemalloc.start()
    data = read_safetensors(tmp_path)["t"].data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.nbytes == 4_000_000
    assert not data.flags.owndata
    assert not data.flags.writeable
    assert peak < 100_000


def test_unreadable_formats_matter_only_when_asked_for(tmp_path: Path) -> None:
    tensors = {
        "w": torch.ones(2, 2),
        "buffer": torch.arange(3),
        "scalar": torch.tensor(1.0),
        "mask": torch.ones(2, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    weights = read_safetensors(tmp_path)
    assert list(weights) == ["w"]
    for name, message in {
        "buffer": r"buffer is stored as I64 \[3\]",
        "scalar": r"scalar is stored as F32 \[\]",
        "mask": "BOOL",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            weights[name]
    with pytest.raises(KeyError):
        weights["absent"]


def test_shards_as_transformers_writes_them(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {key: value for key, value in hf_config().items() if key not in ("architectures", "model_type")}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = read_safetensors(tmp_path)
    state = model.state_dict()
    assert set(weights) == set(state) == set(hf_tensors())
    for name, tensor in state.items():
        assert np.array_equal(weights[name].data.view(np.float32).reshape(weights[name].shape), tensor.numpy())


def write_index(directory: Path, index: object, shards: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, tensors in shards.items():
        save_file(tensors, directory / name)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {"a": 3}}, "must lie in a file beside it"),
        ({"weight_map": {"a": "../a.safetensors"}}, "must lie in a file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "must lie in a file beside it"),
        ({"weight_map": {"a": ""}}, "must lie in a file beside it|cannot read"),
        ({"weight_map": {"a": "b.safetensors"}}, "cannot read .*b.safetensors"),
        ({"weight_map": {"b": "a.safetensors"}}, "lacks b"),
        ([], "must hold a JSON object"),
    ],
)
def test_hostile_index(tmp_path: Path, index: object, message: str) -> None:
    write_index(tmp_path, index, {"a.safetensors": {"a": torch.ones(2)}})
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path)


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        read_safetensors(tmp_path)


# -- hostile headers ----------------------------------------------------------------------------------------------------------


def make(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(shape: object = (4,), offsets: object = (0, 16), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = {"t": tensor()}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "seven bytes": (bytes(7), "too short"),
    "header of 2^64": (make(GOOD, length=2**64 - 1), "truncated, or not safetensors"),
    "header of 2^40": (make(GOOD, length=2**40), "truncated, or not safetensors"),
    "header one too long": (make(GOOD, b"", length=len(json.dumps(GOOD)) + 1), "truncated, or not safetensors"),
    "no header": (make(b""), "not valid JSON"),
    "list": (make([]), "must hold a JSON object"),
    "number": (make(3), "must hold a JSON object"),
    "half": (make(b'{"t": {'), "not valid JSON"),
    "not text": (make(b'{"\xff": 1}'), "not valid JSON"),
    "deep lists": (make(b"[" * 100_000), "not valid JSON"),
    "deep objects": (make(b'{"a":' * 100_000), "not valid JSON"),
    "long number": (make(b'{"t": {"shape": [' + b"9" * 10_000 + b"]}}"), "not valid JSON"),
    "nan": (make(b'{"t": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}'), "NaN is not JSON"),
    "infinity": (make(b'{"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, Infinity]}}'), "Infinity is not JSON"),
    "name twice": (make(b'{"t": %b, "t": %b}' % ((json.dumps(tensor()).encode(),) * 2)), "appears twice"),
    "key twice": (make(b'{"t": {"dtype": "F32", "dtype": "F16", "shape": [4], "data_offsets": [0, 16]}}'), "appears twice"),
    "entry is a list": (make({"t": []}), "must be an object"),
    "no dtype": (make({"t": {"shape": [4], "data_offsets": [0, 16]}}), "dtype"),
    "dtype is a number": (make({"t": tensor(dtype=3)}), "dtype"),
    "no shape": (make({"t": {"dtype": "F32", "data_offsets": [0, 16]}}), "shape"),
    "shape is text": (make({"t": tensor(shape="4")}), "shape"),
    "negative shape": (make({"t": tensor(shape=[-4])}), "shape"),
    "fractional shape": (make({"t": tensor(shape=[4.0])}), "shape"),
    "true shape": (make({"t": tensor(shape=[True])}), "shape"),
    "shape beyond 64 bits": (make({"t": tensor(shape=[2**64])}), "shape"),
    "huge shape": (make({"t": tensor(shape=[2**62, 2**62, 2**62])}), "does not take 16 bytes"),
    "shape that wraps to the size": (make({"t": tensor(shape=[2**62 + 4])}), "does not take 16 bytes"),
    "many dimensions": (make({"t": tensor(shape=[1] * 100)}), "dimensions"),
    "one offset": (make({"t": tensor(offsets=[16])}), "data_offsets"),
    "three offsets": (make({"t": tensor(offsets=[0, 8, 16])}), "data_offsets"),
    "offsets backwards": (make({"t": tensor(offsets=[16, 0])}), "data_offsets"),
    "negative offset": (make({"t": tensor(offsets=[-16, 0])}), "data_offsets"),
    "offset beyond the file": (make({"t": tensor(offsets=[16, 32])}), "data_offsets"),
    "huge offset": (make({"t": tensor(offsets=[0, 2**62])}), "data_offsets"),
    "too few bytes": (make({"t": tensor(offsets=[0, 12])}), "does not take 12 bytes"),
    "overlap": (make({"t": tensor(), "u": tensor(shape=[2], offsets=[8, 16])}), "where 16 was due"),
    "same bytes twice": (make({"t": tensor(), "u": tensor()}), "where 16 was due"),
    "hole": (make({"t": tensor(shape=[1], offsets=[0, 4]), "u": tensor(shape=[1], offsets=[12, 16])}), "where 4 was due"),
    "bytes left over": (make({"t": tensor(shape=[2], offsets=[0, 8])}), "8 bytes belong to no tensor"),
    "truncated": (make(GOOD, bytes(15)), "data_offsets"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_header(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "model.safetensors").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_the_hostile_headers_differ_from_good_ones_in_one_point_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(make(GOOD | {"__metadata__": {"a": "b"}}))
    assert read_safetensors(tmp_path)["t"].shape == (4,)


def test_a_header_larger_than_any_model_needs(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:  # a sparse file: its size is only claimed
        file.write(struct.pack("<Q", 1 << 35))
        file.truncate(1 << 36)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="not safetensors"):
        read_safetensors(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], int]:
    """Tries bytes: whatever they are, their tensors can be had, or it is a CheckpointError. Returns the peak of memory."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"

    def attempt(content: bytes) -> int:
        path.write_bytes(content)
        tracemalloc.start()
        try:
            weights = StoredWeights("fuzz", read_file(path))
            assert sum(weight.data.nbytes for weight in weights.values()) <= len(content)
        except CheckpointError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    return attempt


VALID = save({"a": torch.ones(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16), "c": torch.arange(3)}, {"format": "pt"})
mutation = st.tuples(
    st.integers(0, len(VALID) - 1), st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"9", b"[", b'"', b"{"]))
)


@given(st.lists(mutation, min_size=1, max_size=3), st.integers(0, len(VALID)))
def test_mutated_files(attempt: Callable[[bytes], int], mutations: list[tuple[int, bytes]], cut: int) -> None:
    content = bytearray(VALID)
    for place, change in mutations:
        content[place : place + len(change)] = change
    assert attempt(bytes(content)) < 1_000_000
    assert attempt(bytes(content[:cut])) < 1_000_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "F16", "I64", "X9"]) | json_values},
    optional={"shape": st.lists(st.integers(-1, 5)) | json_values, "data_offsets": st.lists(st.integers(-1, 20)) | json_values},
)


@given(st.dictionaries(st.text(max_size=4), entries | json_values, max_size=3) | json_values, st.binary(max_size=24))
def test_random_headers(attempt: Callable[[bytes], int], header: object, data: bytes) -> None:
    assert attempt(make(header, data)) < 1_000_000
