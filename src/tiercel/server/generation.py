"""One HTTP request's way through the engine: prompts in, deltas out, to an answer that is sent whole or as it grows."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tiercel.engine.async_llm import AsyncLLM
from tiercel.engine.outputs import Delta
from tiercel.server.admission import Admission
from tiercel.server.answers import Answer, Tally
from tiercel.server.errors import ApiError, as_api_error, internal_error, invalid
from tiercel.server.meter import RequestMeter
from tiercel.telemetry import get_logger
from tiercel.telemetry.metrics import ServerMetrics
from tiercel.types import InvalidInput, SamplingParams

log = get_logger("tiercel.server")

Emit = Callable[[int, Delta], Awaitable[None]]  # takes the number of a choice and what it gained


@dataclass(frozen=True)
class Services:
    """What every request shares."""

    llm: AsyncLLM
    admission: Admission
    metrics: ServerMetrics


@dataclass(frozen=True)
class Work:
    """What one HTTP request asks of the engine. names: the client's names of the engine's fields, where they differ."""

    id: str
    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_sequences(self) -> int:
        return len(self.prompts) * self.params.n


class GenerationResponse(Response):
    """Generates when it is sent, so that whatever fails before the first byte is an ordinary error answer.

    The work ends with the client's connection, at its deadline, or at shutdown, and the engine drops it within a step.
    """

    def __init__(self, services: Services, work: Work, answer: Answer, *, stream: bool) -> None:
        super().__init__()
        self._services = services
        self._work = work
        self._answer = answer
        self._stream = stream
        self._tally = Tally(sum(len(prompt) for prompt in work.prompts), salted=bool(work.cache_salt))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_events(send) if self._stream else self._send_body(send))

    async def _send_body(self, send: Send) -> None:
        async def collect(choice: int, delta: Delta) -> None:
            self._answer.collect(choice, delta)

        await self._generate(collect)
        body = self._answer.body(self._tally)
        await _start(send, "application/json", [(b"content-length", b"%d" % len(body))])
        await send({"type": "http.response.body", "body": body})

    async def _send_events(self, send: Send) -> None:
        started = False

        async def forward(choice: int, delta: Delta) -> None:
            nonlocal started
            events = self._answer.events(choice, delta)
            if not started:
                started = True
                await _start(send, "text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})

        try:
            await self._generate(forward)
            last = self._answer.last_events(self._tally)
        except Exception as error:
            if not started:
                raise
            last = _error_event(error)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _generate(self, emit: Emit) -> None:
        """Runs all prompts side by side."""
        work, services = self._work, self._services
        async with services.admission.admit(work.num_sequences):
            with RequestMeter(services.metrics, work.num_sequences) as meter:
                if len(work.prompts) == 1:
                    await self._run_prompt(0, emit, meter)
                else:
                    await _all(self._run_prompt(number, emit, meter) for number in range(len(work.prompts)))
                meter.finish(self._tally)

    async def _run_prompt(self, number: int, emit: Emit, meter: RequestMeter) -> None:
        work = self._work
        deltas = self._services.llm.generate(
            work.prompts[number],
            work.params,
            request_id=f"{work.id}-{number}",
            priority=work.priority,
            cache_salt=work.cache_salt,
        )
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    if delta.finish_reason in ("abort", "error"):
                        raise ApiError(500, "the engine gave this request up", code="engine_error")
                    choice = number * work.params.n + delta.index
                    self._tally.add(number, delta)
                    meter.observe(choice, delta)
                    await emit(choice, delta)
        except InvalidInput as error:
            raise self._blame(error, len(work.prompts[number])) from error

    def _blame(self, error: InvalidInput, prompt_tokens: int) -> ApiError:
        """The engine's complaint about a field, under the name that the client gave it."""
        too_long = prompt_tokens + (self._work.params.max_tokens or 1) > self._services.llm.plan.max_model_len
        code = "context_length_exceeded" if too_long and error.field in ("prompt", "max_tokens") else "invalid_value"
        return invalid(self._work.names.get(error.field, error.field), error.message, code)


async def while_connected(receive: Receive, work: Coroutine[object, object, None]) -> None:
    """Runs `work`; cancels it when the client goes away."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _all(works: Iterable[Coroutine[object, object, None]]) -> None:
    """Runs all; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _start(send: Send, content_type: str, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", content_type.encode()), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _error_event(error: Exception) -> bytes:
    """The last event of a stream that broke; no [DONE] follows, for it is not done."""
    answer = as_api_error(error)
    if answer is None:
        log.error("stream failed", exc_info=error)
        answer = internal_error()
    return b"data: " + answer.body() + b"\n\n"
