"""What a checkpoint says about its network, in one vocabulary for all file formats."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one head.

    `scaling` stretches the trained window by `factor`: "linear" divides positions (arXiv:2306.15595), "llama3" divides low
    frequencies only (the Llama 3.1 reference code), "yarn" blends by wavelength and scales attention (arXiv:2309.00071).
    """

    head_dim: int
    theta: float = 10_000.0
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_max_position: int = 0  # trained window; llama3 and yarn need it
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None = 0.1 ln(factor) + 1
    truncate: bool = True  # yarn: round the correction range to whole dimensions
    interleaved: bool = False  # pairs (0,1), (2,3), ... instead of (0, d/2), (1, d/2+1), ...
    frequency_factors: tuple[float, ...] | None = None  # [head_dim / 2], each frequency is divided by its own (GGUF Llama 3)


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. `architecture` is a name in `models.registry`."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position: int
    tie_embeddings: bool
    qkv_bias: bool = False
    sliding_window: int | None = None  # a row sees keys at distance < sliding_window
    windowed_layers: tuple[int, ...] = ()  # the layers that use it
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None


@dataclass(frozen=True)
class KVGroupSpec:
    """Layers of a model that keep their KV by one rule. window: a row sees keys at distance < window; None = all before it."""

    layers: tuple[int, ...]
    window: int | None = None
