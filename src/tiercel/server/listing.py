"""Answers about the server itself."""

from typing import Literal

import msgspec


class ModelCard(msgspec.Struct, tag_field="object", tag="model"):
    """A model that is served. created: seconds since 1970, when it was loaded; max_model_len: tokens of prompt and answer."""

    id: str
    created: int
    max_model_len: int
    owned_by: str = "tiercel"


class ModelList(msgspec.Struct, tag_field="object", tag="list"):
    data: list[ModelCard]


class Version(msgspec.Struct):
    version: str


class Health(msgspec.Struct):
    status: Literal["ok"]
