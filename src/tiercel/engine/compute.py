"""Resolves what computes: back end, formats, instruction set, threads."""

from dataclasses import dataclass

from tiercel.config import EngineConfig
from tiercel.models import Checkpoint
from tiercel.ops import Ops, load_ops, native_reason
from tiercel.platforms import Platform
from tiercel.types import FORMATS, InvalidInput, KVFormat, ModelConfig, WeightFormat

_BYTES_PER_VALUE = {"float32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 20 / 32}  # of a matrix
_PRODUCTS = {"int8": "int8-balanced"}  # what products are where a name does not say it all: a scale per row, see models.balance


@dataclass(frozen=True)
class Compute:
    """What computes. why_not_native: one line for the user where the native back end would be chosen but is not there."""

    backend: str
    dtype: str
    kv_dtype: KVFormat
    isa: str
    threads: int
    why_not_native: str = ""

    def load(self) -> Ops:
        return load_ops(self.backend, threads=self.threads, dtype=self.dtype, isa=self.isa)

    def numerics(self, ops: Ops, checkpoint: Checkpoint) -> str:
        """The numerics class of what this computes: the back end's, the formats its products read, and that of the KV.

        Weights as stored in bf16 and weights turned into bf16 are one class; a file's 8 bits and its float32 copy are two.
        """
        formats = {_product_format(FORMATS[name]) for name in checkpoint.matrix_formats}
        products = "+".join(sorted(formats)) if self.dtype == "stored" else _PRODUCTS.get(self.dtype, self.dtype)
        return f"{ops.numerics}/{products}/kv-{self.kv_dtype}"

    def weight_bytes(self, checkpoint: Checkpoint) -> int:
        """About what the weights take in memory."""
        return sum(int(count * self._bytes_per_value(FORMATS[name])) for name, count in checkpoint.parameters.items())

    def _bytes_per_value(self, stored: WeightFormat) -> float:
        if self.dtype == "stored":
            return min(stored.block_bytes / stored.block_values, 2.0)
        return _BYTES_PER_VALUE[self.dtype]


def resolve_compute(config: EngineConfig, model: ModelConfig, platform: Platform) -> Compute:
    """Auto means native unless something asks for float32 or the machine has no way. Raises InvalidInput for what cannot be."""
    backend, reason = config.backend, ""
    if backend == "auto":
        wants_float32 = config.dtype == "float32" or config.kv_dtype == "float32"
        reason = "" if wants_float32 else _why_not_native(model)
        backend = "reference" if wants_float32 or reason else "cpu"
    threads = platform.cores if config.threads == "auto" else config.threads
    if backend == "reference":
        if config.dtype not in ("auto", "float32") and not reason:
            raise InvalidInput("dtype", f"the reference back end computes in float32 only, not in {config.dtype}")
        if reason and config.dtype not in ("auto", "float32"):
            raise InvalidInput("dtype", f"{config.dtype} needs the native back end, and {reason}")
        kv_dtype: KVFormat = "float32" if config.kv_dtype == "auto" else config.kv_dtype
        if kv_dtype not in ("float32", "bfloat16"):
            why = reason or "the reference back end keeps KV in float32 or bfloat16"
            raise InvalidInput("kv_dtype", f"{kv_dtype} needs the native back end, and {why}")
        return Compute("reference", "float32", kv_dtype, "auto", threads, reason)
    if config.dtype == "float32":
        raise InvalidInput("dtype", "the cpu back end computes products in bf16 or int8: choose backend reference for float32")
    if config.kv_dtype == "float32":
        raise InvalidInput(
            "kv_dtype", "the cpu back end keeps KV in bfloat16, int8 or int4: choose backend reference for float32"
        )
    dtype = "stored" if config.dtype == "auto" else config.dtype
    return Compute("cpu", dtype, "bfloat16" if config.kv_dtype == "auto" else config.kv_dtype, config.isa, threads)


def _why_not_native(model: ModelConfig) -> str:
    """Why a model cannot run on the native back end here; empty if it can."""
    if model.head_dim % 32 or model.head_dim > 256:
        return f"the native back end takes heads of 32, 64, ... 256 channels and this model has {model.head_dim}"
    return native_reason()


def _product_format(stored: WeightFormat) -> str:
    """What a weight as stored is multiplied as."""
    return stored.name.lower() if stored.block_values > 1 else "bf16"
