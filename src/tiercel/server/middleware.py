"""What surrounds every HTTP request: an id, a log line, a count, and the answer to an error that nobody expected."""

from time import perf_counter
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiercel.server.errors import internal_error
from tiercel.telemetry import get_logger
from tiercel.telemetry.metrics import ServerMetrics

log = get_logger("tiercel.http")

_NO_ANSWER = 499  # nginx's number for a client that left before its answer
_QUIET = {"/health", "/metrics"}  # asked for every few seconds by machines


class Observe:
    """Plain ASGI: Starlette's middleware base class would cost a task switch per chunk of every stream."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = uuid4().hex
        began = perf_counter()
        status = _NO_ANSWER

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except ClientDisconnect:  # in the middle of its own request
            pass
        except Exception:
            log.exception("unexpected error", path=scope["path"], request_id=request_id)
            if status == _NO_ANSWER:
                await internal_error().response()(scope, receive, observed)
        finally:
            self._record(scope, status, request_id, perf_counter() - began)

    def _record(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")  # a bounded set of labels, whatever paths clients try
        self._metrics.http.labels(route, str(status)).inc()
        write = log.debug if route in _QUIET else log.info
        write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            request_id=request_id,
        )
