"""Settings from loose values, with errors a user can act on."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tiercel.types import InvalidInput

Settings = TypeVar("Settings", bound=BaseModel)


def checked(settings: type[Settings], given: Mapping[str, object]) -> Settings:
    """Settings from values given, then the environment, then defaults. Raises InvalidInput naming the first bad field."""
    try:
        return settings.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        raise InvalidInput(field, f"{first['msg'].removeprefix('Value error, ')}, got {first['input']!r}") from None
