"""The API described for machines: /openapi.json. Bodies come from pydantic, answers from msgspec, routes from FastAPI."""

from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from tiercel.server.chat import ChatChunk, ChatCompletion
from tiercel.server.completions import Completion
from tiercel.server.errors import ErrorBody
from tiercel.server.listing import Health, ModelCard, ModelList, Version
from tiercel.server.protocol import ChatRequest, CompletionRequest, RequestPart

_ANSWERS = (Completion, ChatCompletion, ChatChunk, ErrorBody, Health, ModelCard, ModelList, Version)
_BODIES = (CompletionRequest, ChatRequest)
_REFERENCE = "#/components/schemas/"

Responses = dict[int | str, dict[str, Any]]  # FastAPI's name for what a route may answer


class DescribedApp(FastAPI):
    """FastAPI that knows our models: it sees neither bodies nor answers itself, since neither pass through it."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(_components())
        return super().openapi()


def body(model: type[RequestPart]) -> dict[str, Any]:
    """A route's `openapi_extra`: it takes this model as JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(model)}}}}


def answers(model: type[msgspec.Struct], *, chunk: type[msgspec.Struct] | None = None) -> Responses:
    """A route's `responses`: this object, a stream of chunks where there is one, or an error."""
    content: dict[str, Any] = {"application/json": {"schema": _reference(model)}}
    if chunk is not None:
        content["text/event-stream"] = {"itemSchema": _event(chunk)}
    error = {"content": {"application/json": {"schema": _reference(ErrorBody)}}}
    return {
        200: {"description": "Success", "content": content},
        "4XX": {"description": "The request cannot be served as it is", **error},
        "5XX": {"description": "The server cannot serve it now", **error},
    }


def _components() -> dict[str, Any]:
    _, answered = msgspec.json.schema_components(_ANSWERS, ref_template=_REFERENCE + "{name}")
    _, asked = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REFERENCE + "{model}")
    return {**answered, **asked["$defs"]}


def _event(chunk: type[msgspec.Struct]) -> dict[str, Any]:
    """A server-sent event, described as OpenAPI 3.2 and FastAPI's own streams do it."""
    content = {"anyOf": [_reference(chunk), _reference(ErrorBody)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [data, {"const": "[DONE]"}]}}}


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE + model.__name__}
