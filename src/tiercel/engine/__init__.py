"""The engine: requests, scheduler, runner and the two fronts, `LLM` (inline) and `AsyncLLM` (own process)."""

from tiercel.engine.async_llm import AsyncLLM
from tiercel.engine.build import Identity, identify
from tiercel.engine.core import EngineCore
from tiercel.engine.frontend import PromptEncoder
from tiercel.engine.llm import LLM
from tiercel.engine.messages import EngineStats
from tiercel.engine.outputs import Delta, RequestOutput, SampledToken, SampleOutput, TokenLogprob
from tiercel.engine.plan import EnginePlan

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
]
