"""Tiercel: an LLM inference engine built around its KV cache.

    llm = LLM("smollm2")
    print(llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].text)

Everything a user needs is importable from here; the engine is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from tiercel.types import EngineDead, InvalidInput, ModelError, SamplingParams, TiercelError

if TYPE_CHECKING:
    from tiercel.config import EngineConfig
    from tiercel.engine import LLM, AsyncLLM, Delta, RequestOutput

__version__ = "0.1.0"

__all__ = [
    "AsyncLLM",
    "Delta",
    "EngineConfig",
    "EngineDead",
    "InvalidInput",
    "LLM",
    "ModelError",
    "RequestOutput",
    "SamplingParams",
    "TiercelError",
]

_LAZY = {
    "AsyncLLM": "tiercel.engine",
    "Delta": "tiercel.engine",
    "EngineConfig": "tiercel.config",
    "LLM": "tiercel.engine",
    "RequestOutput": "tiercel.engine",
}


def __getattr__(name: str) -> object:
    """Imports the engine when it is first asked for, so that `tiercel --help` does not."""
    if name not in _LAZY:
        raise AttributeError(f"module 'tiercel' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
