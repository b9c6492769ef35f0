"""The engine: requests, scheduler, runner and the two fronts, `LLM` (inline) and `AsyncLLM` (own process)."""

from typing import TYPE_CHECKING

from tiercel.engine.build import Identity, identify, load_checkpoint
from tiercel.engine.core import EngineCore
from tiercel.engine.frontend import PromptEncoder
from tiercel.engine.llm import LLM
from tiercel.engine.messages import EngineStats
from tiercel.engine.outputs import Delta, RequestOutput, SampledToken, SampleOutput, TokenLogprob
from tiercel.engine.plan import EnginePlan

if TYPE_CHECKING:
    from tiercel.engine.async_llm import AsyncLLM

__all__ = [
    "AsyncLLM",
    "Delta",
    "EngineCore",
    "EnginePlan",
    "EngineStats",
    "Identity",
    "LLM",
    "PromptEncoder",
    "RequestOutput",
    "SampleOutput",
    "SampledToken",
    "TokenLogprob",
    "identify",
    "load_checkpoint",
]


def __getattr__(name: str) -> object:
    """Imports `AsyncLLM`, and asyncio and ZeroMQ with it, when it is first asked for: a single answer needs none of them."""
    if name != "AsyncLLM":
        raise AttributeError(f"module 'tiercel.engine' has no attribute {name!r}")
    from tiercel.engine.async_llm import AsyncLLM

    return AsyncLLM
