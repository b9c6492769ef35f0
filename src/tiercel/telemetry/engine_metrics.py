"""What Prometheus sees of an engine: its own counts, as it told them last."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_GAUGES = {
    "requests_running": "Requests that the engine computes now.",
    "requests_waiting": "Requests that wait for room in the engine.",
    "requests_loading": "Requests whose prefix is being loaded from the tier below the device.",
    "kv_blocks_total": "KV blocks on the device.",
    "kv_blocks_used": "KV blocks held by running requests.",
    "kv_blocks_cached": "KV blocks that hold reusable content, used or not.",
}
_COUNTERS = {
    "steps": "Steps of the engine.",
    "prompt_tokens": "Prompt tokens of admitted requests.",
    "generation_tokens": "Tokens sampled.",
    "prefix_query_tokens": "Prompt tokens looked up in the prefix cache.",
    "prefix_hit_tokens": "Prompt tokens found there.",
    "prefix_stored_tokens": "Prompt tokens found there that were loaded from the tier below the device.",
    "preemptions": "Requests set back because blocks ran out.",
    "evictions": "Cached blocks dropped from the device to make room.",
}
_TIER_GAUGES = {
    "loads_running": "Loads from the tier under way.",
    "blocks_waiting": "Blocks that are still to be written to the tier.",
}
# The engine's name of a count of the tier -> the metric's name, and what it says.
_TIER_COUNTERS = {
    "look_ups": ("look_ups", "Requests whose prefix was looked up in the tier."),
    "blocks_loaded": ("blocks_loaded", "Blocks loaded from the tier."),
    "bytes_loaded": ("loaded_bytes", "Bytes read from the tier."),
    "blocks_written": ("blocks_written", "Blocks written to the tier."),
    "bytes_written": ("written_bytes", "Bytes written to the tier."),
    "blocks_dropped": ("blocks_dropped", "Blocks that should have been written and were not."),
    "breaker_trips": ("breaker_trips", "How often the tier was left alone because it failed."),
    "write_cpu_seconds": ("write_cpu_seconds", "Processor time spent writing to the tier."),
}
_OPERATIONS = ("look_up", "load", "write")
_LOAD_MISSES = ("corrupt", "evicted", "store_failed", "timed_out")
_DIRECTIONS = ("read", "write")


class Stats(Protocol):
    """The parts of `EngineStats` that are not one number."""

    @property
    def phase_seconds(self) -> Mapping[str, float]: ...

    @property
    def tier(self) -> Mapping[str, float]: ...


class EngineCollector(Collector):
    """Shows the engine's own counts, taken from the last `EngineStats` handed in; None = the engine did not answer."""

    def __init__(self) -> None:
        self.stats: Stats | None = None

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("tiercel_engine_up", "1 while the engine answers.", value=self.stats is not None)
        if self.stats is None:
            return
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"tiercel_{name}", text, value=getattr(self.stats, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"tiercel_{name}", text, value=getattr(self.stats, name))
        phases = CounterMetricFamily("tiercel_step_phase_seconds", "Time in each phase of steps.", labels=["phase"])
        for phase, seconds in self.stats.phase_seconds.items():
            phases.add_metric([phase], seconds)
        yield phases
        yield from _tier_metrics(self.stats.tier)


def _tier_metrics(counts: Mapping[str, float]) -> Iterable[Metric]:
    """What has not happened yet is shown as 0, so that alerts have something to compare with. counts: empty = no tier."""
    yield GaugeMetricFamily("tiercel_tier_attached", "1 where KV is kept in a tier below the device.", value=bool(counts))
    for name, text in _TIER_GAUGES.items():
        yield GaugeMetricFamily(f"tiercel_tier_{name}", text, value=counts.get(name, 0))
    for key, (name, text) in _TIER_COUNTERS.items():
        yield CounterMetricFamily(f"tiercel_tier_{name}", text, value=counts.get(key, 0))
    failures = CounterMetricFamily("tiercel_tier_failures", "Operations that the tier failed at.", labels=["operation"])
    for operation in _OPERATIONS:
        failures.add_metric([operation], counts.get(f"{operation}_failures", 0))
    yield failures
    misses = CounterMetricFamily("tiercel_tier_load_misses", "Blocks found in the tier that did not come.", labels=["reason"])
    for reason in _LOAD_MISSES:
        misses.add_metric([reason], counts.get(f"loads_{reason}", 0))
    yield misses
    breaker = GaugeMetricFamily("tiercel_tier_breaker_open", "1 while the tier is left alone.", labels=["direction"])
    for direction in _DIRECTIONS:
        breaker.add_metric([direction], counts.get(f"{direction}_breaker_open", 0))
    yield breaker
