"""Reads a request's body into its model, within bounds."""

from typing import TypeVar

from starlette.requests import Request

from tiercel.server.errors import ApiError
from tiercel.server.protocol import RequestPart

Body = TypeVar("Body", bound=RequestPart)


async def read_body(request: Request, model: type[Body], most: int) -> Body:
    """The body as a `model`. Raises ApiError (415 not JSON, 413 more than `most` bytes) and pydantic's ValidationError."""
    # Also what keeps a foreign web page from posting here: without this type a browser does not ask CORS for leave.
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, "the body must be JSON and say so: Content-Type: application/json", code="unsupported_media_type")
    return model.model_validate_json(await _read(request, most))


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"the body is larger than {most} bytes (max_body)", code="body_too_large")
    return bytes(body)
