"""Options that hold several values, with commas between them."""

from collections.abc import Iterable

from tiercel.types import InvalidInput


def numbers(field: str, text: str) -> list[int]:
    """Each once, in order. Raises InvalidInput unless all are whole numbers above 0."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InvalidInput(field, f"must be numbers above 0 with commas, like 128,1024; got {text!r}")
    return list(dict.fromkeys(found))


def names(field: str, text: str, known: Iterable[str]) -> list[str]:
    """Each once, in order. Raises InvalidInput unless all are known."""
    found, known = text.split(","), list(known)
    if not set(found) <= set(known):
        raise InvalidInput(field, f"must be some of {', '.join(known)}, with commas; got {text!r}")
    return list(dict.fromkeys(found))
