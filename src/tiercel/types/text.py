"""Checks of text a user sends."""

from tiercel.types.errors import InvalidInput

_SHOWN_CHARACTERS = 80


def check_text(field: str, value: object, longest: int) -> None:
    """Raises InvalidInput unless `value` is a string of 1 to `longest` characters that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be a string, got {shown(value)}")
    if not 1 <= len(value) <= longest:
        raise InvalidInput(field, f"must have 1 to {longest:,} characters, got {len(value):,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(field, f"holds half of a surrogate pair, which is no character: {shown(value)}") from None


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, not too long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge number"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
