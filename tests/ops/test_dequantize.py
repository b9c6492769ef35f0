"""Every format against ggml's own Python code, bit for bit."""

import gguf
import numpy as np
import pytest

from tests.support.model_files import gemma_path, smollm2
from tiercel.models.gguf import GGUFFile, read_gguf
from tiercel.ops import dequantize
from tiercel.types import FORMATS, Weight


def expected(weight: Weight) -> np.ndarray:
    with np.errstate(all="ignore"):
        values = gguf.dequantize(weight.rows, gguf.GGMLQuantizationType[weight.format.name])
    return values.reshape(weight.shape)


def assert_same_bits(weight: Weight) -> None:
    got = dequantize(weight)
    assert got.dtype == np.float32
    assert got.shape == weight.shape
    assert np.array_equal(got.view(np.uint32), expected(weight).view(np.uint32))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 4, 2), (700, 9)])
def test_random_bytes(name: str, shape: tuple[int, ...]) -> None:
    """All bit patterns of scales and quants, infinities and nan included. The largest shape takes several pieces."""
    format = FORMATS[name]
    *rows, blocks = shape
    rng = np.random.default_rng(len(shape))
    data = rng.integers(0, 256, int(np.prod(shape)) * format.block_bytes, np.uint8)
    assert_same_bits(Weight(data, format, (*rows, blocks * format.block_values)))


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_at_odd_addresses_that_may_not_be_written(name: str) -> None:
    format = FORMATS[name]
    data = np.random.default_rng(1).integers(0, 256, 6 * format.block_bytes + 1, np.uint8)
    data.flags.writeable = False
    weight = Weight(data[1:], format, (3, 2 * format.block_values))
    assert_same_bits(weight)
    assert dequantize(weight).flags.writeable


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16", "BF16", "F32"])
def test_values_survive_quantisation(name: str) -> None:
    """Not only equal to the oracle but near the values that were stored."""
    values = np.random.default_rng(2).standard_normal((8, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    data = gguf.quantize(values, kind).view(np.uint8).reshape(-1)
    got = dequantize(Weight(data, FORMATS[name], values.shape))
    assert np.abs(got - values).max() < {"Q4_0": 0.35, "Q4_1": 0.2, "Q5_0": 0.2, "Q8_0": 0.02}.get(name, 0.02)
    assert np.abs(got - values).max() > 0 or name == "F32"


def assert_whole_file(file: GGUFFile) -> set[str]:
    for tensor in file.tensors.values():
        weight = Weight(tensor.data, FORMATS[tensor.format], tensor.shape)
        if len(weight.rows) > 100_000:  # the oracle takes long for Gemma's vocabulary: every seventh row of it
            rows = weight.rows[::7]
            weight = Weight(rows.reshape(-1), weight.format, (len(rows), weight.shape[-1]))
        assert_same_bits(weight)
    return {tensor.format for tensor in file.tensors.values()}


def test_every_tensor_of_smollm2() -> None:
    assert assert_whole_file(smollm2()) == {"F32", "Q4_1", "Q8_0"}


def test_every_tensor_of_gemma() -> None:
    assert assert_whole_file(read_gguf(gemma_path())) == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
