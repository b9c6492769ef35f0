"""Prompts as commands take them: a text, a file, a conversation."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from tiercel.types import InvalidInput

if TYPE_CHECKING:
    from tiercel.models import Tokenizer

Message = Mapping[str, object]

System = Annotated[str | None, typer.Option(help="instructions that stand before the prompt")]
Raw = Annotated[bool, typer.Option("--raw", help="take the text as it is, without the model's chat template")]


class Encoder(Protocol):
    """Whoever knows how a model wants its prompts: an engine, or `engine.PromptEncoder` without one."""

    @property
    def tokenizer(self) -> "Tokenizer": ...

    @property
    def has_chat_template(self) -> bool: ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int]: ...


def encode_text(model: Encoder, text: str, system: str | None = None, *, raw: bool = False) -> list[int]:
    """A text in the model's chat template, as what the user says; as it is where `raw`, or where the model has no template."""
    if raw or not model.has_chat_template:
        return model.tokenizer.encode(f"{system}\n\n{text}" if system else text)
    opening = [{"role": "system", "content": system}] if system else []
    return model.encode_chat([*opening, {"role": "user", "content": text}])


def read_text(field: str, path: Path) -> str:
    """All of a file, "-" = standard input. Raises InvalidInput that blames `field`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(field, f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(field, f"{path} is not text in UTF-8") from error


def parse_messages(text: str) -> list[Message]:
    """A conversation from JSON. Raises InvalidInput; what must be in the messages, the chat template says."""
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("messages", f"no JSON: {error}") from error
    return check_messages(messages)


def check_messages(value: object) -> list[Message]:
    """The value as a list of objects. Raises InvalidInput."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise InvalidInput("messages", 'must be a list like [{"role": "user", "content": "..."}]')
    return value
