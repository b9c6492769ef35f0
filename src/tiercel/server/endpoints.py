"""What a checked request becomes: work for the engine, and the answer that is made of it."""

import asyncio
import time
from collections.abc import Sequence

from tiercel.engine.async_llm import AsyncLLM
from tiercel.models import Tokenizer
from tiercel.server.answers import Asked, Head
from tiercel.server.chat import ChatAnswer
from tiercel.server.completions import CompletionAnswer
from tiercel.server.errors import ApiError, invalid
from tiercel.server.generation import GenerationResponse, Services, Work
from tiercel.server.protocol import ChatRequest, CompletionRequest, GenerationRequest
from tiercel.server.translate import chat_messages, chat_params, chat_tools, completion_params, field_names, renamed
from tiercel.types import SamplingParams


async def complete(services: Services, request: CompletionRequest, request_id: str) -> GenerationResponse:
    """POST /v1/completions."""
    llm = services.llm
    _check(llm, request)
    params = completion_params(request, llm.generation_defaults)
    prompts = await asyncio.to_thread(_encode, llm.tokenizer, request.prompt)
    echoes = [_echo(llm.tokenizer, prompt) if request.echo else "" for prompt in request.prompt]
    answer = CompletionAnswer(_head(llm, f"cmpl-{request_id}"), echoes, params.n, _asked(request, params))
    work = Work(request_id, prompts, params, request.priority or 0, request.cache_salt or "", field_names(request))
    return GenerationResponse(services, work, answer, stream=bool(request.stream))


async def chat(services: Services, request: ChatRequest, request_id: str) -> GenerationResponse:
    """POST /v1/chat/completions."""
    llm = services.llm
    _check(llm, request)
    params = chat_params(request, llm.generation_defaults)
    names = field_names(request)
    with renamed(names):
        prompt = await asyncio.to_thread(llm.encode_chat, chat_messages(request), chat_tools(request))
    answer = ChatAnswer(_head(llm, f"chatcmpl-{request_id}"), params.n, _asked(request, params))
    work = Work(request_id, [prompt], params, request.priority or 0, request.cache_salt or "", names)
    return GenerationResponse(services, work, answer, stream=bool(request.stream))


def check_model(llm: AsyncLLM, name: str | None) -> None:
    """Raises ApiError unless `name` is the served model's. A client that names none means the only one there is."""
    if name is not None and name != llm.model_name:
        raise ApiError(
            404, f"model: {name[:200]!r} is not served here, {llm.model_name!r} is", param="model", code="model_not_found"
        )


def _check(llm: AsyncLLM, request: GenerationRequest) -> None:
    """Checks what is neither shape nor sampling."""
    check_model(llm, request.model)
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "needs stream: true")


def _asked(request: GenerationRequest, params: SamplingParams) -> Asked:
    return Asked(
        logprobs=params.logprobs is not None,
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        cache_report=bool(request.cache_report),
    )


def _encode(tokenizer: Tokenizer, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    return [tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _echo(tokenizer: Tokenizer, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    if not all(0 <= token < tokenizer.vocab_size for token in prompt):
        raise invalid("prompt", f"token ids go from 0 to {tokenizer.vocab_size - 1}")
    return tokenizer.decode(prompt, skip_special_tokens=False)


def _head(llm: AsyncLLM, answer_id: str) -> Head:
    return Head(answer_id, int(time.time()), llm.model_name)
