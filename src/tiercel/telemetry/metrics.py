"""What Prometheus sees of a serving process: its engine, its requests, its HTTP answers."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# Seconds. A hit answers in milliseconds, a cold 32K prompt on a small machine takes minutes.
_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_PER_TOKEN = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_REQUEST = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

_ENGINE_GAUGES = {
    "requests_running": "Requests that the engine computes now.",
    "requests_waiting": "Requests that wait for room in the engine.",
    "kv_blocks_total": "KV blocks on the device.",
    "kv_blocks_used": "KV blocks held by running requests.",
    "kv_blocks_cached": "KV blocks that hold reusable content, used or not.",
}
_ENGINE_COUNTERS = {
    "steps": "Steps of the engine.",
    "prompt_tokens": "Prompt tokens of admitted requests.",
    "generation_tokens": "Tokens sampled.",
    "prefix_query_tokens": "Prompt tokens looked up in the prefix cache.",
    "prefix_hit_tokens": "Prompt tokens found there.",
    "preemptions": "Requests set back because blocks ran out.",
    "evictions": "Cached blocks dropped to make room.",
}


class EngineCollector(Collector):
    """Shows the engine's own counts, taken from the last `EngineStats` handed in; None = the engine did not answer."""

    def __init__(self) -> None:
        self.stats: object | None = None

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("tiercel_engine_up", "1 while the engine answers.", value=self.stats is not None)
        if self.stats is None:
            return
        for name, text in _ENGINE_GAUGES.items():
            yield GaugeMetricFamily(f"tiercel_{name}", text, value=getattr(self.stats, name))
        for name, text in _ENGINE_COUNTERS.items():
            yield CounterMetricFamily(f"tiercel_{name}", text, value=getattr(self.stats, name))


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
