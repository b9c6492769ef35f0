"""Measures one HTTP request's generation."""

from dataclasses import dataclass
from time import perf_counter
from types import TracebackType

from tiercel.engine.outputs import Delta
from tiercel.server.answers import Tally
from tiercel.server.errors import ApiError
from tiercel.telemetry.metrics import ServerMetrics


@dataclass
class _Sequence:
    """Times of one sequence. tokens: output tokens so far."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0


class RequestMeter:
    """Records times and tokens of a request; of one that does not finish, only how its open sequences ended."""

    def __init__(self, metrics: ServerMetrics, num_sequences: int) -> None:
        self._metrics = metrics
        self._start = perf_counter()
        self._open = {number: _Sequence() for number in range(num_sequences)}
        self._waiting = True

    def __enter__(self) -> "RequestMeter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        refused = isinstance(error, ApiError) and error.status < 500  # the engine never saw it
        if self._open and not refused:
            reason = "error" if isinstance(error, Exception) else "abort"
            self._metrics.finished.labels(reason).inc(len(self._open))

    def observe(self, number: int, delta: Delta) -> None:
        """Takes in what a sequence gained."""
        now = perf_counter()
        if self._waiting:
            self._waiting = False
            self._metrics.first_token.observe(now - self._start)
        sequence = self._open[number]
        sequence.first = sequence.first or now
        sequence.last = now
        sequence.tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._finish_sequence(number, delta.finish_reason)

    def finish(self, tally: Tally) -> None:
        """The whole request is answered."""
        self._metrics.request.observe(perf_counter() - self._start)
        self._metrics.prompt_tokens.inc(tally.prompt_tokens)
        self._metrics.cached_tokens.inc(tally.cached_tokens)
        self._metrics.output_tokens.inc(tally.output_tokens)
        for reuse in tally.reuse.values():
            self._metrics.prefix_misses.labels(reuse.miss.reason).inc()

    def _finish_sequence(self, number: int, reason: str) -> None:
        sequence = self._open.pop(number)
        self._metrics.finished.labels(reason).inc()
        if sequence.tokens > 1:
            self._metrics.per_token.observe((sequence.last - sequence.first) / (sequence.tokens - 1))
