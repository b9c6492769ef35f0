"""Rotation tables of rotary position embedding (Su et al., arXiv:2104.09864), the same for every back end.

Frequencies and angles are rounded to float32 at the same places as in the transformers library, so that angles agree even at
far positions. Powers, sines and cosines are taken in float64 and rounded once: the tables are the same on every machine.
"""

import math

import numpy as np
import numpy.typing as npt

from tiercel.types import RopeConfig

Float32 = npt.NDArray[np.float32]


def rotation_tables(rope: RopeConfig, max_position: int) -> tuple[Float32, Float32]:
    """cos and sin of every angle, [max_position, head_dim / 2], times the attention factor where the scaling has one."""
    angles = np.outer(np.arange(max_position, dtype=np.float32), frequencies(rope)).astype(np.float64)
    factor = np.float32(attention_factor(rope))
    return np.cos(angles).astype(np.float32) * factor, np.sin(angles).astype(np.float32) * factor


def frequencies(rope: RopeConfig) -> Float32:
    """Radians per position of each pair of channels, [head_dim / 2]."""
    exponents = np.arange(0, rope.head_dim, 2, dtype=np.float32) / np.float32(rope.head_dim)
    wavelengths = np.exp(math.log(rope.theta) * exponents.astype(np.float64)).astype(np.float32)  # over 2 pi
    plain: Float32 = np.float32(1) / wavelengths
    if rope.scaling == "linear":
        plain = plain / np.float32(rope.factor)
    elif rope.scaling == "llama3":
        plain = _llama3(rope, plain)
    elif rope.scaling == "yarn":
        plain = _yarn(rope, wavelengths)
    if rope.frequency_factors is not None:
        plain = np.divide(plain, np.array(rope.frequency_factors, np.float32))
    return plain


def attention_factor(rope: RopeConfig) -> float:
    """What queries and keys are multiplied by to keep attention as sharp as in the trained window (YaRN, section 3.4)."""
    if rope.scaling != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0


def _llama3(rope: RopeConfig, plain: Float32) -> Float32:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (`apply_scaling` of Llama 3.1)."""
    turns = np.float32(rope.original_max_position) / (np.float32(2 * math.pi) / plain)  # within the trained window
    stretched = plain / np.float32(rope.factor)
    smooth = (turns - np.float32(rope.low_freq_factor)) / np.float32(rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - smooth) * stretched + smooth * plain
    long, short = turns < rope.low_freq_factor, turns > rope.high_freq_factor
    return np.select([long, short], [stretched, plain], blended)


def _yarn(rope: RopeConfig, wavelengths: Float32) -> Float32:
    """Pairs that turn more than `beta_fast` times in the trained window are kept, those below `beta_slow` stretched (3.2)."""
    first, last = _yarn_pair(rope, rope.beta_fast), _yarn_pair(rope, rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.head_dim - 1)
    if first == last:
        last += 0.001
    pairs = np.arange(rope.head_dim // 2, dtype=np.float32)
    kept = 1 - np.clip((pairs - np.float32(first)) / np.float32(last - first), 0, 1)
    stretched, plain = 1 / (np.float32(rope.factor) * wavelengths), 1 / wavelengths
    blended: Float32 = stretched * (1 - kept) + plain * kept
    return blended


def _yarn_pair(rope: RopeConfig, turns: float) -> float:
    """The pair, as a fraction, that turns so many times within the trained window."""
    return rope.head_dim * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
