"""Who gets in, and for how long: bounds on work accepted and on its time, and the end of both at shutdown."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from tiercel.config.server import ServerConfig
from tiercel.server.errors import ApiError


class Admission:
    """Counts sequences (samples of prompts) from acceptance to end. Belongs to one event loop."""

    def __init__(self, config: ServerConfig, max_running: int, in_flight: Gauge) -> None:
        self._capacity = max_running + config.max_queued
        self._seconds = config.request_timeout
        self._in_flight = in_flight
        self._sequences = 0
        self._deadlines: set[asyncio.Timeout] = set()
        self._closed = False

    @asynccontextmanager
    async def admit(self, sequences: int) -> AsyncIterator[None]:
        """The body runs as accepted work. Raises ApiError: 400 too large, 429 full, 504 out of time, 503 shutting down."""
        self._check(sequences)
        self._count(sequences)
        deadline = asyncio.timeout(self._seconds)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._interrupted() from None
        finally:
            self._deadlines.discard(deadline)
            self._count(-sequences)

    def check_open(self) -> None:
        """Raises ApiError once nothing is taken in any more."""
        if self._closed:
            raise _shutting_down()

    def close(self) -> None:
        """Takes nothing in from now on."""
        self._closed = True

    def interrupt(self) -> None:
        """Ends all accepted work with an error."""
        self.close()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(-math.inf)

    def _check(self, sequences: int) -> None:
        self.check_open()
        if sequences > self._capacity:
            raise ApiError(
                400,
                f"{sequences} sequences in one request (prompts x n); this server takes {self._capacity}",
                code="too_many_sequences",
            )
        if self._sequences + sequences > self._capacity:
            error = ApiError(429, "the queue is full; try again later", code="queue_full")
            error.headers["Retry-After"] = "1"
            raise error

    def _count(self, sequences: int) -> None:
        self._sequences += sequences
        self._in_flight.set(self._sequences)

    def _interrupted(self) -> ApiError:
        if self._closed:
            return _shutting_down()
        return ApiError(504, f"the request took longer than {self._seconds:g} s (request_timeout)", code="timeout")


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")
