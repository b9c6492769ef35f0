"""From what a client wrote to what the engine takes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from tiercel.server.errors import invalid
from tiercel.server.protocol import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    Message,
    ResponseFormat,
    StructuredOutputs,
    ToolCall,
)
from tiercel.types import InvalidInput, SamplingParams, StructuredOutput

# Fields that carry over under their own name, where the client set them.
_SAME = {
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "logit_bias",
}
# Settings that a model's author may recommend; a client's word goes first.
_RECOMMENDED = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float}


# The parts of a StructuredOutput under the names that clients give them.
_STRUCTURED_OUTPUTS = {
    "structured": "structured_outputs",
    "structured.json_schema": "structured_outputs.json",
    "structured.regex": "structured_outputs.regex",
    "structured.grammar": "structured_outputs.grammar",
    "structured.choice": "structured_outputs.choice",
}
_RESPONSE_FORMAT = {"structured": "response_format", "structured.json_schema": "response_format.json_schema.schema"}


def completion_params(request: CompletionRequest, recommended: Mapping[str, float]) -> SamplingParams:
    """Sampling of a completion. Raises InvalidInput or ApiError naming the field."""
    if request.suffix is not None:
        raise invalid("suffix", "filling in the middle is not supported", "unsupported_parameter")
    if request.echo and request.logprobs is not None:
        raise invalid("echo", "log probabilities of the prompt are not computed: ask for echo or for logprobs")
    with renamed(field_names(request)):
        return SamplingParams(**_settings(request, recommended), logprobs=request.logprobs)


def chat_params(request: ChatRequest, recommended: Mapping[str, float]) -> SamplingParams:
    """Sampling of a chat completion. Raises InvalidInput or ApiError naming the field."""
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "needs logprobs: true")
    settings: dict[str, Any] = {"max_tokens": None}  # a chat's answer may fill the context
    with renamed(field_names(request)):
        settings |= _settings(request, recommended)
        if request.max_completion_tokens is not None:
            settings["max_tokens"] = request.max_completion_tokens
        if request.response_format is not None:
            if request.structured_outputs is not None:
                raise invalid("structured_outputs", "cannot be combined with response_format")
            settings["structured"] = _response_format(request.response_format)
        settings["logprobs"] = (request.top_logprobs or 0) if request.logprobs else None
        return SamplingParams(**settings)


def field_names(request: GenerationRequest) -> dict[str, str]:
    """What the engine's fields are called in this request, where the names differ."""
    names = dict(_STRUCTURED_OUTPUTS)
    if isinstance(request, ChatRequest):
        names |= {"prompt": "messages", "logprobs": "top_logprobs"}
        if request.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        if request.response_format is not None:
            names |= _RESPONSE_FORMAT
    return names


def chat_messages(request: ChatRequest) -> list[dict[str, object]]:
    """The conversation as chat templates expect it: contents as text, tool arguments as objects."""
    return [_template_message(index, message) for index, message in enumerate(request.messages)]


def chat_tools(request: ChatRequest) -> list[dict[str, object]] | None:
    """The tools that the model may see; none where the client forbids their use."""
    if not request.tools or request.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in request.tools]


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """An InvalidInput inside speaks of fields by the names that the client used."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(names.get(error.field, error.field), error.message) from error


def _settings(request: GenerationRequest, recommended: Mapping[str, float]) -> dict[str, Any]:
    settings = request.model_dump(include=_SAME, exclude_none=True)
    for name, convert in _RECOMMENDED.items():
        if name in recommended:
            settings.setdefault(name, convert(recommended[name]))
    settings["stop"] = tuple(request.stop or ())
    settings["stop_token_ids"] = tuple(request.stop_token_ids or ())
    if request.structured_outputs is not None:
        settings["structured"] = _structured_output(request.structured_outputs)
    return settings


def _structured_output(asked: StructuredOutputs) -> StructuredOutput:
    choice = None if asked.choice is None else tuple(asked.choice)
    return StructuredOutput(json_schema=asked.json_, regex=asked.regex, grammar=asked.grammar, choice=choice)


def _response_format(asked: ResponseFormat) -> StructuredOutput | None:
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return StructuredOutput(json_object=True)
    if asked.json_schema is None or asked.json_schema.schema_ is None:
        raise invalid("response_format.json_schema.schema", "is missing", "missing_required_parameter")
    return StructuredOutput(json_schema=asked.json_schema.schema_)


def _template_message(index: int, message: Message) -> dict[str, object]:
    text = "".join(part.text for part in message.content or ())
    # OpenAI renamed "system" to "developer" for newer models; chat templates know the old name.
    result: dict[str, object] = {"role": "system" if message.role == "developer" else message.role, "content": text}
    if message.name is not None:
        result["name"] = message.name
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        result["tool_calls"] = [
            _template_tool_call(f"messages[{index}].tool_calls[{i}]", call) for i, call in enumerate(message.tool_calls)
        ]
    return result


def _template_tool_call(path: str, call: ToolCall) -> dict[str, object]:
    try:
        arguments = msgspec.json.decode(call.function.arguments, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(f"{path}.function.arguments", "must be a JSON object, written as a string") from error
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": arguments}}
