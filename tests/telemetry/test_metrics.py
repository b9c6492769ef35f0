"""The exposition, read back by Prometheus's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from tiercel.engine.messages import EngineStats
from tiercel.telemetry import ServerMetrics


def families(metrics: ServerMetrics) -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def value(metrics: ServerMetrics, name: str) -> float:
    return next(sample.value for family in families(metrics).values() for sample in family.samples if sample.name == name)


def test_every_engine_count_is_shown():
    metrics = ServerMetrics()
    names = [name for name in EngineStats.__struct_fields__ if name != "phase_seconds"]
    metrics.engine.stats = EngineStats(**{name: number for number, name in enumerate(names, start=1)})
    shown = families(metrics)
    for number, name in enumerate(names, start=1):
        family = shown[f"tiercel_{name}"]
        assert family.type in ("gauge", "counter")
        assert family.documentation
        assert value(metrics, f"tiercel_{name}" + ("_total" if family.type == "counter" else "")) == number
    assert value(metrics, "tiercel_engine_up") == 1


def test_dead_engine_has_no_counts():
    shown = families(ServerMetrics())
    assert shown["tiercel_engine_up"].samples[0].value == 0
    assert "tiercel_requests_running" not in shown


def test_two_servers_do_not_share_counts():
    first, second = ServerMetrics(), ServerMetrics()
    first.output_tokens.inc(3)
    assert value(first, "tiercel_request_output_tokens_total") == 3
    assert value(second, "tiercel_request_output_tokens_total") == 0


def test_histograms_tell_milliseconds_from_minutes():
    metrics = ServerMetrics()
    metrics.first_token.observe(0.02)
    metrics.first_token.observe(200.0)
    family = families(metrics)["tiercel_time_to_first_token_seconds"]
    counts = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert counts["0.01"] == 0
    assert counts["0.025"] == 1
    assert counts["100.0"] == 1
    assert counts["250.0"] == 2
