"""The HTTP application: which path does what."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from tiercel.config.server import ServerConfig
from tiercel.engine.async_llm import AsyncLLM
from tiercel.server import endpoints, openapi
from tiercel.server.admission import Admission
from tiercel.server.body import read_body
from tiercel.server.chat import ChatChunk, ChatCompletion
from tiercel.server.completions import Completion
from tiercel.server.errors import ApiError, as_api_error
from tiercel.server.generation import Services
from tiercel.server.listing import Health, ModelCard, ModelList, Version
from tiercel.server.middleware import Observe
from tiercel.server.protocol import ChatRequest, CompletionRequest
from tiercel.telemetry.metrics import ServerMetrics
from tiercel.types import EngineDead, InvalidInput

_STATS_SECONDS = 10.0  # an engine answers between two steps; one that takes longer is as good as dead


def create_app(llm: AsyncLLM, config: ServerConfig) -> FastAPI:
    """The application over a running engine. It leaves the engine's end to the caller; `app.state.admission` ends requests."""
    app = openapi.DescribedApp(
        title="Tiercel",
        description="OpenAI-compatible inference.",
        version=version("tiercel"),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    metrics = ServerMetrics()
    services = Services(llm, Admission(config, llm.plan.max_num_seqs, metrics.in_flight), metrics)
    app.state.admission = services.admission
    app.include_router(_openai_routes(services, config))
    app.include_router(_operating_routes(services))
    app.add_middleware(Observe, metrics=metrics)
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=config.allowed_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    for kind in (ApiError, InvalidInput, ValidationError, EngineDead, HTTPException):
        app.add_exception_handler(kind, _answer_error)
    return app


def _openai_routes(services: Services, config: ServerConfig) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(config))])
    llm = services.llm
    card = ModelCard(llm.model_name, int(time.time()), llm.plan.max_model_len)

    @router.post(
        "/completions",
        openapi_extra=openapi.body(CompletionRequest),
        responses=openapi.answers(Completion, chunk=Completion),
    )
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest, config.max_body)
        return await endpoints.complete(services, body, request.state.request_id)

    @router.post(
        "/chat/completions",
        openapi_extra=openapi.body(ChatRequest),
        responses=openapi.answers(ChatCompletion, chunk=ChatChunk),
    )
    async def chat_completions(request: Request) -> Response:
        body = await read_body(request, ChatRequest, config.max_body)
        return await endpoints.chat(services, body, request.state.request_id)

    @router.get("/models", responses=openapi.answers(ModelList))
    async def models() -> Response:
        return _json(ModelList([card]))

    @router.get("/models/{name:path}", responses=openapi.answers(ModelCard))
    async def model(name: str) -> Response:
        endpoints.check_model(llm, name)
        return _json(card)

    return router


def _operating_routes(services: Services) -> APIRouter:
    router = APIRouter()
    llm, metrics = services.llm, services.metrics

    @router.get("/health", responses=openapi.answers(Health))
    async def health() -> Response:
        if not llm.alive:
            raise EngineDead("restart the server")
        services.admission.check_open()
        return _json(Health("ok"))

    @router.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        try:
            async with asyncio.timeout(_STATS_SECONDS):
                metrics.engine.stats = await llm.stats()
        except (EngineDead, TimeoutError):
            metrics.engine.stats = None
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/version", responses=openapi.answers(Version))
    async def version_number() -> Response:
        return _json(Version(version("tiercel")))

    return router


def _key_check(config: ServerConfig) -> Callable[[Request], Awaitable[None]]:
    """The dependency that asks for the key, where there is one."""
    key = config.api_key.get_secret_value().encode() if config.api_key else None

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if key is not None and not hmac.compare_digest(given, b"Bearer " + key):
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    return check


async def _answer_error(request: Request, error: Exception) -> Response:
    answer = as_api_error(error)
    if answer is None:
        raise error
    return answer.response()


def _json(data: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")
