"""Errors as OpenAI clients know them: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Sequence

import msgspec
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tiercel.types import EngineDead, InvalidInput

_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter", "json_invalid": "invalid_json"}


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of every answer that is not a success, and last event of a stream that broke."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message, _error_type(status), param, code)
        self.headers: dict[str, str] = {}

    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(self.detail))

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, media_type="application/json")


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def invalid(param: str, message: str, code: str | None = "invalid_value") -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def as_api_error(error: Exception) -> ApiError | None:
    """The answer to an error raised on purpose; None = unexpected, a defect of ours."""
    match error:
        case ApiError():
            return error
        case InvalidInput():
            return invalid(error.field, error.message)
        case ValidationError():
            return _from_validation(error)
        case EngineDead():
            return ApiError(503, f"the engine has died: {error}", code="engine_dead")
        case HTTPException():
            answer = ApiError(error.status_code, str(error.detail), code=_http_code(error.status_code))
            answer.headers.update(error.headers or {})
            return answer
    return None


def internal_error() -> ApiError:
    """The answer to an unexpected error. What it was stands in the log only."""
    return ApiError(500, "internal error; the log of the server names its cause", code="internal_error")


def _http_code(status: int) -> str | None:
    return {404: "not_found", 405: "method_not_allowed"}.get(status)


def _from_validation(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, message, param = first["type"], first["msg"], field_path(first["loc"])
    code = _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    if kind == "json_invalid":
        return ApiError(400, message, code=code)
    if kind == "extra_forbidden":
        message = "is no field of this request"
    return invalid(param, message.removeprefix("Value error, "), code) if param else ApiError(400, message, code=code)


def field_path(location: Sequence[int | str]) -> str:
    """("messages", 0, "role") -> "messages[0].role". Cut where a client's own keys make it long."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "[key]":  # pydantic's mark for "the key itself is wrong"
            path += f".{step}" if path else step
    return path[:200]
