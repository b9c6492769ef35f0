"""What form a user may demand of the output."""

import json
from typing import Literal

import msgspec

from tiercel.types.errors import InvalidInput
from tiercel.types.text import check_text, shown

MAX_GRAMMAR_CHARACTERS = 65_536
MAX_CHOICES = 1024

StructureKind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]


class StructuredOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The output is text of one form; exactly one field is given.

    json_schema: a JSON document that fits this schema, given as text or as an object; kept as text
    json_object: any JSON object
    regex: all of the text matches this regular expression (Rust's syntax, without look-around)
    choice: one of these texts; any sequence of strings will do
    grammar: a sentence of this grammar, in llguidance's dialect of Lark

    Raises InvalidInput naming the field, as `structured.<name>`.
    """

    json_schema: str | dict[str, object] | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        given = [name for name, value in values.items() if value is not None and value is not False]
        if len(given) != 1:
            names = ", ".join(self.__struct_fields__)
            raise InvalidInput("structured", f"must have exactly one of {names}; got {' and '.join(given) or 'none'}")
        if not isinstance(self.json_object, bool):
            raise InvalidInput("structured.json_object", f"must be true or false, got {shown(self.json_object)}")
        if self.regex is not None:
            check_text("structured.regex", self.regex, MAX_GRAMMAR_CHARACTERS)
        if self.grammar is not None:
            check_text("structured.grammar", self.grammar, MAX_GRAMMAR_CHARACTERS)
        if self.json_schema is not None:
            msgspec.structs.force_setattr(self, "json_schema", _schema_text(self.json_schema))
        if self.choice is not None:
            msgspec.structs.force_setattr(self, "choice", _choices(self.choice))

    @property
    def kind(self) -> StructureKind:
        """The field that was given."""
        kinds: tuple[StructureKind, ...] = ("json_schema", "regex", "choice", "grammar")
        return next((kind for kind in kinds if getattr(self, kind) is not None), "json_object")


def _schema_text(schema: object) -> str:
    """The schema as JSON text in one spelling, which is hashable and fits into any message."""
    field = "structured.json_schema"
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(field, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(field, f"must be an object, got {shown(value)}")
    check_text(field, text, MAX_GRAMMAR_CHARACTERS)
    return text


def _choices(choices: object) -> tuple[str, ...]:
    field = "structured.choice"
    if not isinstance(choices, list | tuple):
        raise InvalidInput(field, f"must be a list of strings, got {shown(choices)}")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidInput(field, f"must have 1 to {MAX_CHOICES:,} entries, got {len(choices):,}")
    for text in choices:
        check_text(field, text, MAX_GRAMMAR_CHARACTERS)
    if sum(map(len, choices)) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidInput(field, f"must have at most {MAX_GRAMMAR_CHARACTERS:,} characters in all")
    return tuple(choices)
