"""What a client may send: the fields and their types. Ranges are checked once, by `SamplingParams`.

Fields after the line "extensions" are ours; the others are OpenAI's. Unknown fields are refused by name.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

JsonObject = dict[str, object]


class RequestPart(BaseModel):
    """Base of everything a client sends: no unknown fields, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _one_or_many(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return value
    raise ValueError("must be a string or a list of strings")


StopStrings = Annotated[list[str], BeforeValidator(_one_or_many, json_schema_input_type=str | list[str])]


def _parse_prompts(value: object) -> list[str | list[int]]:
    """A text, token ids, or a list of either -> a list of prompts. The engine checks the ids: it knows its vocabulary."""
    if isinstance(value, str) or _is_tokens(value):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(p, str) or _is_tokens(p) for p in value):
        raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")
    return value


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_parse_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]


class StreamOptions(RequestPart):
    include_usage: bool | None = None


class JsonSchemaFormat(RequestPart):
    name: str
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestPart):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(RequestPart):
    """Exactly one of these; what the text of the answer must match."""

    json_: JsonObject | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, description="a regular expression")
    grammar: str | None = Field(None, description="a context-free grammar in Lark syntax")
    choice: list[str] | None = Field(None, description="one of these texts")


class GenerationRequest(RequestPart):
    """What completions and chat completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: StopStrings | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = Field(
        None, description="token id -> what is added to its logit", json_schema_extra={"propertyNames": {"pattern": "^[0-9]+$"}}
    )
    user: str | None = Field(None, description="accepted, not used")
    # extensions
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31, description="lower runs first")
    cache_salt: str | None = Field(None, max_length=256, description="share cached prefixes only with requests of this salt")
    cache_report: bool | None = Field(
        None, description="say in the answer where the prompt's tokens came from, and why no more of them were reused"
    )


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Prompts
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None


class FunctionCall(RequestPart):
    name: str
    arguments: str


class ToolCall(RequestPart):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class TextPart(RequestPart):
    type: Literal["text"]
    text: str


def _as_parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return value
    raise ValueError("must be a string or a list of parts")


Content = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])]


class Message(RequestPart):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(RequestPart):
    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(RequestPart):
    type: Literal["function"]
    function: Function


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
