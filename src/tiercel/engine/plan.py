"""Resolves "auto": what this engine will be on this machine, in particular how much memory holds how much context."""

from collections.abc import Sequence

import msgspec

from tiercel.config import DiskPlan, EngineConfig, format_size
from tiercel.engine.compute import Compute
from tiercel.platforms import Platform
from tiercel.types import BLOCK_TOKENS, InvalidInput, KVFormat, KVGroup, ModelConfig, ModelError

_AUTO_SHARE = 0.4  # of the memory left beside the weights; the rest belongs to activations and to other programs
_AUTO_MOST = 4 << 30


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with nothing left open. Printed, it is the memory plan."""

    backend: str
    dtype: str
    kv_dtype: KVFormat
    kv_bytes: int
    num_blocks: int  # in every group
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    threads: int
    prefix_caching: bool
    disk_path: str = ""  # where KV is kept on disk; empty = nowhere
    disk_bytes: int = 0  # at most

    @property
    def kv_tokens(self) -> int:
        """Tokens of context that the KV memory holds."""
        return self.num_blocks * BLOCK_TOKENS

    def __str__(self) -> str:
        disk = f"up to {format_size(self.disk_bytes)} more in {self.disk_path}; " if self.disk_path else ""
        return (
            f"KV {format_size(self.kv_bytes)} = {self.kv_tokens:,} tokens at {self.kv_dtype}; {disk}"
            f"context up to {self.max_model_len:,} tokens; {self.backend} back end, {self.dtype}, threads: {self.threads}"
        )


def make_plan(
    config: EngineConfig,
    model: ModelConfig,
    groups: Sequence[KVGroup],
    weight_bytes: int,
    platform: Platform,
    compute: Compute,
    *,
    disk: DiskPlan | None = None,
) -> EnginePlan:
    """Fits the KV cache beside `weight_bytes` of weights.

    Raises InvalidInput naming the setting that asks for more than there is, ModelError if the weights alone do not fit.
    """
    if config.max_num_batched_tokens < config.max_num_seqs:
        raise InvalidInput(
            "max_num_batched_tokens",
            f"{config.max_num_batched_tokens} tokens per step cannot serve max_num_seqs = {config.max_num_seqs} requests; "
            "raise it or lower max_num_seqs",
        )
    left = platform.memory_available - weight_bytes
    if left <= 0:
        raise ModelError(
            f"the weights take {format_size(weight_bytes)} in memory and only {format_size(platform.memory_available)} is "
            "available: use a smaller model, or give the process more memory"
        )
    block_bytes = sum(group.layout.block_bytes for group in groups)
    kv_bytes = _kv_memory(config, block_bytes, left)
    num_blocks = kv_bytes // block_bytes
    return EnginePlan(
        backend=compute.backend,
        dtype=compute.dtype,
        kv_dtype=compute.kv_dtype,
        kv_bytes=num_blocks * block_bytes,
        num_blocks=num_blocks,
        max_model_len=_max_model_len(config, model, num_blocks, block_bytes),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        threads=compute.threads,
        prefix_caching=config.prefix_caching,
        disk_path=str(disk.path) if disk is not None else "",
        disk_bytes=disk.capacity if disk is not None else 0,
    )


def _kv_memory(config: EngineConfig, block_bytes: int, left: int) -> int:
    """Bytes for the KV cache: as told, or a share of what is left that holds at least one context as long as told."""
    if config.kv_memory != "auto":
        if config.kv_memory > left:
            raise InvalidInput(
                "kv_memory", f"{format_size(config.kv_memory)} asked for, {format_size(left)} available beside the weights"
            )
        if config.kv_memory < block_bytes:
            raise InvalidInput("kv_memory", f"one block of {BLOCK_TOKENS} tokens takes {format_size(block_bytes)}; raise it")
        return config.kv_memory
    wanted = min(_AUTO_MOST, int(left * _AUTO_SHARE))
    if config.max_model_len != "auto":
        wanted = max(wanted, _blocks(config.max_model_len) * block_bytes)
    return max(min(wanted, left), block_bytes)


def _max_model_len(config: EngineConfig, model: ModelConfig, num_blocks: int, block_bytes: int) -> int:
    capacity = num_blocks * BLOCK_TOKENS
    if config.max_model_len == "auto":
        return min(model.max_position, capacity)
    if config.max_model_len > model.max_position:
        raise InvalidInput(
            "max_model_len", f"{config.max_model_len:,} tokens asked for, the model was trained for {model.max_position:,}"
        )
    if config.max_model_len > capacity:
        needed = _blocks(config.max_model_len) * block_bytes
        raise InvalidInput(
            "max_model_len",
            f"a context of {config.max_model_len:,} tokens takes {format_size(needed)} of KV and there is room for "
            f"{format_size(num_blocks * block_bytes)} = {capacity:,} tokens: lower it, or raise kv_memory",
        )
    return config.max_model_len


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)
