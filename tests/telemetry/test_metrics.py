"""The exposition, read back by Prometheus's own parser."""

from pathlib import Path
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from tests.support.engines import Setup, make_core, run_to_end, submit
from tiercel.engine.messages import EngineStats
from tiercel.stores import FileStore, MemoryStore, Store
from tiercel.telemetry.metrics import ServerMetrics
from tiercel.types import MissReason


def families(metrics: ServerMetrics) -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def value(metrics: ServerMetrics, name: str, **labels: str) -> float:
    samples = [sample for family in families(metrics).values() for sample in family.samples]
    return next(sample.value for sample in samples if sample.name == name and sample.labels == labels)


def after_a_run(store: Store, prompt: list[int]) -> EngineStats:
    """An engine over `store` answers one prompt, and what it has to write is written."""
    core = make_core(Setup(), store=store)
    core.submit(submit("r", prompt, max_tokens=1))
    run_to_end(core)
    while core.stats().tier["blocks_waiting"] and not core.stats().tier["write_breaker_open"]:
        core.step()
    stats = core.stats()
    core.close()
    return stats


def test_every_engine_count_is_shown():
    metrics = ServerMetrics()
    names = [name for name in EngineStats.__struct_fields__ if name not in ("phase_seconds", "tier")]
    metrics.engine.stats = EngineStats(**{name: number for number, name in enumerate(names, start=1)})
    shown = families(metrics)
    for number, name in enumerate(names, start=1):
        family = shown[f"tiercel_{name}"]
        assert family.type in ("gauge", "counter")
        assert family.documentation
        assert value(metrics, f"tiercel_{name}" + ("_total" if family.type == "counter" else "")) == number
    assert value(metrics, "tiercel_engine_up") == 1


def test_the_phases_of_a_step_are_told_apart():
    metrics = ServerMetrics()
    metrics.engine.stats = EngineStats(phase_seconds={"schedule": 0.25, "execute": 2.0})
    for phase, seconds in (("schedule", 0.25), ("execute", 2.0)):
        assert value(metrics, "tiercel_step_phase_seconds_total", phase=phase) == seconds


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


PROMPT = [token % 50 for token in range(300)]  # four whole blocks and a rest


def test_what_goes_to_a_store_and_comes_from_it() -> None:
    store, metrics = MemoryStore(), ServerMetrics()
    metrics.engine.stats = after_a_run(store, PROMPT)
    assert value(metrics, "tiercel_tier_attached") == 1
    assert value(metrics, "tiercel_tier_look_ups_total") == 1
    assert value(metrics, "tiercel_tier_blocks_written_total") == 4
    assert value(metrics, "tiercel_tier_written_bytes_total") == store.usage().bytes
    assert value(metrics, "tiercel_tier_blocks_loaded_total") == 0
    metrics.engine.stats = after_a_run(store, PROMPT)
    assert value(metrics, "tiercel_tier_blocks_written_total") == 0
    assert value(metrics, "tiercel_tier_blocks_loaded_total") == 4
    assert value(metrics, "tiercel_tier_loaded_bytes_total") == store.usage().bytes
    assert value(metrics, "tiercel_prefix_stored_tokens_total") == value(metrics, "tiercel_prefix_hit_tokens_total") == 256


def test_damaged_blocks_are_counted(tmp_path: Path) -> None:
    def open_store() -> FileStore:
        return FileStore(tmp_path / "kv", capacity=1 << 30, free_floor=0)

    after_a_run(open_store(), PROMPT)
    for entry in [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 4096]:
        data = bytearray(entry.read_bytes())
        data[-1] ^= 1
        entry.write_bytes(data)
    metrics = ServerMetrics()
    metrics.engine.stats = after_a_run(open_store(), PROMPT)
    assert value(metrics, "tiercel_tier_load_misses_total", reason="corrupt") == 4
    assert value(metrics, "tiercel_tier_blocks_loaded_total") == 0


class BrokenStore(MemoryStore):
    """A store whose medium is gone."""

    def exists(self, keys, deadline):
        raise OSError("gone")


def test_a_store_that_fails_is_counted() -> None:
    metrics = ServerMetrics()
    core = make_core(Setup(), store=BrokenStore())
    for number in range(3):  # one after the other: three failures in a row
        core.submit(submit(f"r{number}", [number] * 100, max_tokens=1))
        run_to_end(core)
    metrics.engine.stats = core.stats()
    assert value(metrics, "tiercel_tier_failures_total", operation="look_up") == 3
    assert value(metrics, "tiercel_tier_breaker_trips_total") >= 1
    assert value(metrics, "tiercel_tier_breaker_open", direction="read") == 1
    core.close()


def test_every_count_of_the_tier_is_shown() -> None:
    """Told apart by its value."""
    names = {*after_a_run(MemoryStore(), PROMPT).tier, *after_a_run(MemoryStore(capacity=1), PROMPT).tier, "loads_corrupt"}
    counts = {name: 1000.0 + number for number, name in enumerate(sorted(names))}
    metrics = ServerMetrics()
    metrics.engine.stats = EngineStats(tier=counts)
    shown = {sample.value for family in families(metrics).values() for sample in family.samples}
    assert {name for name, count in counts.items() if count not in shown} == set()
    assert {"write_failures", "blocks_dropped", "write_cpu_seconds"} <= names


def test_what_has_not_happened_is_0() -> None:
    metrics = ServerMetrics()
    metrics.engine.stats = EngineStats()
    shown = families(metrics)
    assert {s.labels["reason"] for s in shown["tiercel_prefix_misses"].samples} == set(get_args(MissReason))
    assert {s.labels["operation"] for s in shown["tiercel_tier_failures"].samples} == {"look_up", "load", "write"}
    tier = [family for name, family in shown.items() if name.startswith("tiercel_tier_")]
    assert len(tier) > 10
    assert {sample.value for family in tier for sample in family.samples if not sample.name.endswith("_created")} == {0}
