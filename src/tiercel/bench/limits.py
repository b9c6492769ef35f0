"""What the machine allows at best: no program reads weights faster than memory delivers them or multiplies faster than BLAS."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tiercel.types import ModelConfig

FLOAT32 = 4


@dataclass(frozen=True)
class MachineLimits:
    """flops: float32 multiply-adds count as two, per second; bandwidth: bytes read per second. Measured with numpy's BLAS."""

    flops: float
    bandwidth: float

    @classmethod
    def measure(cls, runs: int = 5) -> "MachineLimits":
        side, rows, columns = 1536, 16_384, 8_192
        square = np.ones((side, side), np.float32)
        tall, vector = np.ones((rows, columns), np.float32), np.ones(columns, np.float32)
        product = min(_seconds(square, square) for _ in range(runs))
        reading = min(_seconds(tall, vector) for _ in range(runs))
        return cls(2 * side**3 / product, tall.nbytes / reading)

    def first_token(self, model: ModelConfig, prompt_tokens: int) -> float:
        """Least seconds to compute a prompt, by arithmetic: every layer for every token, the vocabulary for one."""
        attention = 4 * model.num_layers * model.num_heads * model.head_dim * prompt_tokens * (prompt_tokens + 1) / 2
        linear = 2 * _layer_weights(model) * prompt_tokens + 2 * model.vocab_size * model.hidden_size
        return (attention + linear) / self.flops

    def per_token(self, model: ModelConfig, context: int) -> float:
        """Least seconds for one more token, by memory: every weight and the whole context's KV are read once, in float32."""
        kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * context
        weights = _layer_weights(model) + model.vocab_size * model.hidden_size
        return FLOAT32 * (kv + weights) / self.bandwidth


def _layer_weights(model: ModelConfig) -> int:
    """Weights of all matrices in the layers."""
    attention = 2 * model.hidden_size * model.head_dim * (model.num_heads + model.num_kv_heads)
    return model.num_layers * (attention + 3 * model.hidden_size * model.intermediate_size)


def _seconds(a: np.ndarray, b: np.ndarray) -> float:
    start = perf_counter()
    np.matmul(a, b)
    return perf_counter() - start
