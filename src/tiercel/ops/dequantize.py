"""Weights of every stored format as float32.

Values equal those of ggml's reference code bit for bit: https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c
A block of a quantised format holds its scale `d` as float16, sometimes a minimum `m`, and the quants `q` packed in the order
given at each function. Work goes in pieces that stay in the processor's cache.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tiercel.types import Weight

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_PIECE_VALUES = 1 << 17


def dequantize(weight: Weight) -> Float32:
    """A new float32 array of the weight's shape. Every `WeightFormat` of `tiercel.types.FORMATS` is known."""
    decode = _DECODERS[weight.format.name]
    blocks = weight.data.reshape(-1, weight.format.block_bytes)
    out = np.empty((len(blocks), weight.format.block_values), np.float32)
    step = _PIECE_VALUES // weight.format.block_values
    with np.errstate(invalid="ignore", over="ignore"):  # a corrupt scale gives nan or inf, as in the reference code
        for start in range(0, len(blocks), step):
            decode(blocks[start : start + step], out[start : start + step])
    return out.reshape(weight.shape)


def _f32(blocks: UInt8, out: Float32) -> None:
    out.view(np.uint8)[:] = blocks


def _f16(blocks: UInt8, out: Float32) -> None:
    out[:] = _half(blocks)


def _bf16(blocks: UInt8, out: Float32) -> None:
    """The upper half of a float32."""
    np.left_shift(blocks.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)


def _q4_0(blocks: UInt8, out: Float32) -> None:
    """[d, 16 bytes]: d * (q - 8); low halves of the bytes are values 0 - 15, high halves 16 - 31."""
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _half(blocks[:, :2])


def _q4_1(blocks: UInt8, out: Float32) -> None:
    """[d, m, 16 bytes]: d * q + m."""
    _nibbles(blocks[:, 4:], out)
    out *= _half(blocks[:, :2])
    out += _half(blocks[:, 2:4])


def _q5_0(blocks: UInt8, out: Float32) -> None:
    """[d, 32 fifth bits, 16 bytes]: d * (q - 16)."""
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    fifth <<= 4
    packed = blocks[:, 6:]
    out[:, :16] = (packed & 15) | fifth[:, :16]
    out[:, 16:] = (packed >> 4) | fifth[:, 16:]
    out -= 16
    out *= _half(blocks[:, :2])


def _q8_0(blocks: UInt8, out: Float32) -> None:
    """[d, 32 signed bytes]: d * q."""
    out[:] = blocks[:, 2:].view(np.int8)
    out *= _half(blocks[:, :2])


def _q4_k(blocks: UInt8, out: Float32) -> None:
    """[d, dmin, 12 bytes of 6-bit scales s and minima m, 128 bytes]: eight runs of 32 values, (d * s) * q - dmin * m.

    Each 32 bytes hold two runs, in their low and in their high halves.
    """
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.hstack([low & 63, (high & 15) | (low >> 2 & 48)])
    minima = np.hstack([middle & 63, (high >> 4) | (middle >> 2 & 48)])
    runs = out.reshape(-1, 8, 32)
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    runs[:, 0::2] = packed & 15
    runs[:, 1::2] = packed >> 4
    runs *= (_half(blocks[:, 0:2]) * scales)[:, :, None]
    runs -= (_half(blocks[:, 2:4]) * minima)[:, :, None]


def _q6_k(blocks: UInt8, out: Float32) -> None:
    """[128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales s, d]: sixteen runs of 16, (d * s) * (q - 32).

    Each half of the block holds 128 values as four runs of 32: low bits in the low halves of 64 bytes, then in their high
    halves; high bits in four pairs of the 32 bytes that follow.
    """
    runs = out.reshape(-1, 2, 4, 32)
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    for run in range(4):
        low_bits = low[:, :, run % 2] >> (4 if run >= 2 else 0) & 15
        high_bits = (high >> 2 * run & 3) << 4
        runs[:, :, run] = low_bits | high_bits
    runs -= 32
    sixteens = out.reshape(-1, 16, 16)
    sixteens *= (_half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8))[:, :, None]


def _nibbles(packed: UInt8, out: Float32) -> None:
    out[:, :16] = packed & 15
    out[:, 16:] = packed >> 4


def _half(raw: UInt8) -> Float32:
    """Float16 bytes [blocks, 2] as float32 [blocks, 1]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


_DECODERS: dict[str, Callable[[UInt8, Float32], None]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
