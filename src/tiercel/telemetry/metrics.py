"""What Prometheus sees of a serving process: its engine, its requests, its HTTP answers."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tiercel.telemetry.engine_metrics import EngineCollector
from tiercel.types import MissReason

# Seconds. A hit answers in milliseconds, a cold 32K prompt on a small machine takes minutes.
_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_PER_TOKEN = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_REQUEST = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)


class ServerMetrics:
    """All collectors of one server, in a registry of its own, so that several servers can live in one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.engine = EngineCollector()
        registry.register(self.engine)
        self.in_flight = Gauge("tiercel_sequences_in_flight", "Sequences accepted and not yet finished.", registry=registry)
        self.finished = Counter(
            "tiercel_sequences_finished", "Sequences by why they ended.", ["finish_reason"], registry=registry
        )
        self.prompt_tokens = Counter("tiercel_request_prompt_tokens", "Prompt tokens of answered requests.", registry=registry)
        self.cached_tokens = Counter(
            "tiercel_request_cached_tokens", "Prompt tokens of answered requests whose KV was reused.", registry=registry
        )
        self.prefix_misses = Counter(
            "tiercel_prefix_misses",
            "Prompts of answered requests by why no more of them was reused.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(MissReason):  # all there from the start, so that alerts have something to compare with
            self.prefix_misses.labels(reason)
        self.output_tokens = Counter("tiercel_request_output_tokens", "Tokens sent to clients.", registry=registry)
        self.first_token = Histogram(
            "tiercel_time_to_first_token_seconds",
            "From submission to the first token.",
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self.per_token = Histogram(
            "tiercel_time_per_output_token_seconds",
            "Mean time between tokens of a sequence, first token left out.",
            buckets=_PER_TOKEN,
            registry=registry,
        )
        self.request = Histogram(
            "tiercel_request_seconds", "From submission to the last token.", buckets=_REQUEST, registry=registry
        )
        self.http = Counter("tiercel_http_responses", "HTTP answers.", ["path", "status"], registry=registry)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
