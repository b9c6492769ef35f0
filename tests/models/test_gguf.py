"""The GGUF parser against the reference reader, and against files made to break it."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.model_files import gemma_path, gguf_tensors, hf_tensors, smollm2, smollm2_path, write_gguf
from tiercel.models.gguf import read_gguf
from tiercel.types import FORMATS, CheckpointError

HUGE = [2**63, 2**64 - 1, 2**60, 2**40, 2**32, 2**31]


def as_list(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(smollm2_path())


def test_metadata_of_smollm2_equals_the_reference_reader(reader: gguf.GGUFReader) -> None:
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    metadata = smollm2().metadata
    assert metadata.keys() == fields.keys()
    assert len(metadata["tokenizer.ggml.merges"]) == 48_900
    for key, field in fields.items():
        assert as_list(metadata[key]) == field.contents(), key


def test_tensors_of_smollm2_equal_the_reference_reader(reader: gguf.GGUFReader) -> None:
    tensors = smollm2().tensors
    assert tensors.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        ours = tensors[tensor.name]
        assert ours.format == tensor.tensor_type.name
        assert ours.shape == tuple(reversed(tensor.shape.tolist()))
        assert np.array_equal(ours.data, tensor.data.view(np.uint8).reshape(-1))


def test_gemma_is_read_and_nothing_of_it_is_copied() -> None:
    file = read_gguf(gemma_path())
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 262_144
    assert file.metadata["gemma3.attention.sliding_window"] == 512
    assert len(file.tensors) == 236
    assert sum(tensor.data.nbytes for tensor in file.tensors.values()) > 240_000_000
    assert not any(tensor.data.flags.owndata or tensor.data.flags.writeable for tensor in file.tensors.values())


def test_every_kind_of_value(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    values: dict[str, object] = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 1.5, "float64": 1e300, "bool": True, "string": "ünï\x00code",
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(kind, value)
    arrays: dict[str, list[object]] = {
        "ints": [1, -2, 3],
        "floats": [0.5, -0.25],
        "bools": [True, False],
        "texts": ["a", "", "ß"],
    }
    for key, array in arrays.items():
        writer.add_array(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert {key: metadata[key] for key in values} == values
    assert [type(metadata[key]) for key in values] == [type(value) for value in values.values()]
    assert {key: as_list(metadata[key]) for key in arrays} == arrays


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_formats_and_shapes(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", {}, {"t": values}, format=name)
    tensor = read_gguf(path).tensors["t"]
    assert (tensor.format, tensor.shape) == (name, (3, 5, 64))
    expected = gguf.quantize(values, gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(-1)
    assert np.array_equal(tensor.data, expected)


@pytest.mark.parametrize("alignment", [8, 32, 1024])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(alignment)
    for i in range(3):
        writer.add_tensor(f"t{i}", np.full(3, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    assert {name: tensor.data.view("<f4").tolist() for name, tensor in tensors.items()} == {
        f"t{i}": [float(i)] * 3 for i in range(3)
    }


# -- hostile files ------------------------------------------------------------------------------------------------------------


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def entry(name: str, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


def make(
    pairs: list[bytes] | None = None,
    entries: list[bytes] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    pair_count: int | None = None,
    tensor_count: int | None = None,
    data: bytes = bytes(64),
) -> bytes:
    pairs, entries = pairs or [], entries or []
    counts = len(entries) if tensor_count is None else tensor_count, len(pairs) if pair_count is None else pair_count
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(entries)
    return head + bytes(-len(head) % 32) + data


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "not gguf": (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
    "three bytes": (b"GGU", "past the end"),
    "version 1": (make(version=1), "version 1"),
    "version 4": (make(version=4), "version 4"),
    "big-endian": (make(version=3 << 24), "big-endian"),
    "huge tensor count": (make(tensor_count=2**60), "past the end"),
    "huge pair count": (make(pair_count=2**64 - 1), "past the end"),
    "one pair too many": (make([pair("a", 4, bytes(4))], pair_count=2), "is empty"),
    "huge key": (make([string(b"", 2**63)], data=bytes(64)), "past the end"),
    "long key": (make([pair("k" * 70_000, 4, bytes(4))]), "too long"),
    "empty key": (make([pair("", 4, bytes(4))]), "is empty"),
    "key twice": (make([pair("a", 4, bytes(4))] * 2), "twice"),
    "key that is not text": (make([string(b"\xff\xfe") + struct.pack("<II", 4, 0)]), "UTF-8"),
    "huge string": (make([pair("a", 8, string(b"abc", 2**62))]), "past the end"),
    "string that is not text": (make([pair("a", 8, string(b"\xc3("))]), "UTF-8"),
    "unknown type": (make([pair("a", 13, bytes(8))]), "unknown type 13"),
    "unknown type in array": (make([pair("a", 9, array(77, 1, bytes(8)))]), "unknown type 77"),
    "array of arrays": (make([pair("a", 9, array(9, 1, array(9, 1, array(4, 1, bytes(4)))))]), "array of arrays"),
    "huge array": (make([pair("a", 9, array(4, 2**60))]), "past the end"),
    "huge array of strings": (make([pair("a", 9, array(8, 2**61))]), "past the end"),
    "array of strings one too long": (make([pair("a", 9, array(8, 2, string("x") + string("", 2**64 - 1)))]), "past the end"),
    "no dimensions": (make([], [entry("t", ())]), "dimensions"),
    "five dimensions": (make([], [entry("t", (1,) * 5)]), "dimensions"),
    "2^32 dimensions": (make([], [string("t") + struct.pack("<I", 2**32 - 1)]), "dimensions"),
    "empty dimension": (make([], [entry("t", (4, 0))]), "empty dimension"),
    "huge dimensions": (make([], [entry("t", (2**63, 2**63, 2**63, 2**63))]), "past the end"),
    "half a block": (make([], [entry("t", (4, 33), kind=2)]), "multiple of 32"),
    "beyond the file": (make([], [entry("t", (32,))]), "past the end"),
    "far offset": (make([], [entry("t", offset=2**63)]), "past the end"),
    "unaligned": (make([], [entry("t", offset=4)]), "unaligned"),
    "overlapping": (make([], [entry("t", (16,)), entry("u", (4,), offset=32)]), "unaligned or another's"),
    "name twice": (make([], [entry("t"), entry("t", offset=32)]), "same name"),
    "alignment 0": (make([pair("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 24": (make([pair("general.alignment", 4, struct.pack("<I", 24))]), "alignment"),
    "alignment in words": (make([pair("general.alignment", 8, string("32"))]), "alignment"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "m.gguf")


def test_the_hostile_files_differ_from_good_ones_in_one_point_only(tmp_path: Path) -> None:
    good = make(
        [pair("a", 4, bytes(4)), pair("b", 9, array(8, 1, string("x")))], [entry("t", (16,)), entry("u", (0x20, 2), 99, 64)]
    )
    (tmp_path / "m.gguf").write_bytes(good)
    file = read_gguf(tmp_path / "m.gguf")
    assert dict(file.metadata) == {"a": 0, "b": ["x"]}
    assert (file.tensors["t"].format, file.tensors["u"].format) == ("F32", "format 99")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(CheckpointError, match=r"cannot read|empty"):
            read_gguf(path)


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Callable[[bytes], int]]:
    """A small valid file, and a function that tries bytes: whatever they are, it is a file or a CheckpointError.

    It returns the peak of memory.
    """
    directory = tmp_path_factory.mktemp("fuzz")
    metadata = {"a": 7, "b": 0.5, "c": "text", "d": ["x", "yy", "zzz"], "e": [1, 2, 3], "f": True}
    tensors = dict(list(gguf_tensors(hf_tensors(vocab=8)).items())[:4])
    valid = write_gguf(directory / "valid.gguf", metadata, tensors, format="Q8_0").read_bytes()

    def attempt(content: bytes) -> int:
        (directory / "m.gguf").write_bytes(content)
        tracemalloc.start()
        try:
            file = read_gguf(directory / "m.gguf")
            for tensor in file.tensors.values():
                assert tensor.format not in FORMATS or tensor.data.nbytes <= len(content)
        except CheckpointError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    return valid, attempt


mutation = st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(HUGE)))


@given(mutations=st.lists(mutation, min_size=1, max_size=4), keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_mutated_files(
    fuzz: tuple[bytes, Callable[[bytes], int]], mutations: list[tuple[float, bytes | int]], keep: float
) -> None:
    valid, attempt = fuzz
    content = bytearray(valid)
    for place, change in mutations:
        start = int(place**2 * len(valid))  # mostly in the header
        patch = struct.pack("<Q", change) if isinstance(change, int) else change
        content[start : start + len(patch)] = patch
    assert attempt(bytes(content[: int(keep * len(content))])) < 1_000_000


@given(st.binary(max_size=300))
@example(b"")
def test_random_bytes_after_a_valid_start(fuzz: tuple[bytes, Callable[[bytes], int]], tail: bytes) -> None:
    _, attempt = fuzz
    assert attempt(b"GGUF" + struct.pack("<I", 3) + tail) < 1_000_000
