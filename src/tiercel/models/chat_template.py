"""Conversations to prompts, by the Jinja template that a model brings along.

Templates come from model files and are not trusted: they run in Jinja's sandbox, see plain JSON data only, and their output is
limited. The environment is the one that templates are written against, that of transformers' `apply_chat_template`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tiercel.models.tokenizer import Tokenizer
from tiercel.types import CheckpointError, InvalidInput

MAX_PROMPT_CHARACTERS = 1 << 26
_MAX_TEMPLATE_CHARACTERS = 1 << 20


def render_chat(
    template: str | None,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, object]],
    tools: Sequence[Mapping[str, object]] | None = None,
    *,
    add_generation_prompt: bool = True,
    **extra: object,
) -> str:
    """The prompt for a conversation. It contains special tokens as text: encode it without adding any.

    messages: objects with a `role` and mostly a `content`, a text or a list of text parts.
    tools: JSON schemas of functions the model may call.
    extra: further variables for the template, such as `enable_thinking`.
    Raises InvalidInput naming the field; also if the model has no template. A template that is not valid is a CheckpointError.
    """
    if template is None:
        raise InvalidInput("messages", "this model has no chat template; send a plain prompt instead")
    compiled = _compile(template)
    plain_messages = _plain("messages", messages)
    if not plain_messages:
        raise InvalidInput("messages", "must not be empty")
    variables = {
        **tokenizer.special_tokens,
        **extra,
        "messages": [_message(place, message) for place, message in enumerate(plain_messages)],
        "tools": None if tools is None else _plain("tools", tools),
        "add_generation_prompt": add_generation_prompt,
    }
    pieces, size = [], 0
    try:
        for piece in compiled.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_PROMPT_CHARACTERS:
                raise TemplateError(f"the prompt grew beyond {MAX_PROMPT_CHARACTERS} characters")
    except Exception as error:  # a template is a program: it can fail in any way
        raise InvalidInput("messages", f"the model's chat template does not accept them: {error!s:.300}") from error
    return "".join(pieces)


def _plain(field: str, values: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """A copy made of plain JSON types: objects with methods would give the template a way out."""
    try:
        plain: object = json.loads(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(field, f"must be made of texts, numbers, lists and objects: {error!s:.300}") from error
    if not isinstance(plain, list) or not all(isinstance(value, dict) for value in plain):
        raise InvalidInput(field, "must be a list of objects")
    return plain


def _message(place: int, message: dict[str, object]) -> dict[str, object]:
    """A checked message, its text parts joined into one text. Null stands for a missing key: templates know only the latter."""
    message = {key: value for key, value in message.items() if value is not None}
    if not isinstance(message.get("role"), str):
        raise InvalidInput("messages", f"messages[{place}] needs a role, such as user")
    content = message.get("content", "")
    if isinstance(content, list):
        return {**message, "content": "\n".join(_part(place, part) for part in content)}
    if not isinstance(content, str):
        raise InvalidInput("messages", f"messages[{place}].content must be a text or a list of text parts")
    return message


def _part(place: int, part: object) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise InvalidInput("messages", f"messages[{place}].content: only parts of type text are supported")
    return text


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    if len(source) > _MAX_TEMPLATE_CHARACTERS:
        raise CheckpointError(f"the model's chat template is longer than {_MAX_TEMPLATE_CHARACTERS} characters")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except Exception as error:  # a syntax error, or whatever the compiler makes of a program nobody meant
        raise CheckpointError(f"the model's chat template is not valid: {error!s:.300}") from error


class _Generation(Extension):
    """`{% generation %}` marks what a model is trained on; for a prompt its body stands as it is."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON. Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
