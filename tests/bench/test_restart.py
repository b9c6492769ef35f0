"""The restart benchmark with real processes on a tiny model."""

from pathlib import Path

import pytest

from tiercel.bench.measure import Summary
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.restart import SCENARIOS, Restart, RestartRun, measure_restart, process_ids, restart_tables
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput, TiercelError

LOAD = PrefixLoad(320, 64)


def config(model: Path, folder: Path, **more: object) -> EngineConfig:
    return EngineConfig(model=str(model), kv_memory="8MiB", kv_disk=str(folder), **more)


def quiet(text: str) -> None:
    """Nobody watches."""


def test_new_processes_find_the_whole_prefix_on_disk(tiny_model: Path, tmp_path: Path) -> None:
    (run,) = measure_restart(config(tiny_model, tmp_path), LOAD, 1, Workload(259), quiet)
    pids = [run.pid, *(restart.pid for restart in run.restarts)]
    sizes = [file.stat().st_size for file in tmp_path.rglob("*.kv")]
    assert len(set(pids)) == 1 + len(SCENARIOS)
    assert run.stored_bytes == 5 * max(sizes)  # the prefix has five blocks; what the new processes wrote is not counted
    assert len(sizes) > 5
    assert run.restarts[0].resident == run.restarts[2].resident == 1.0
    assert min(run.computed, *(min(r.ready, r.raw_read, r.from_disk, r.in_memory) for r in run.restarts)) > 0
    assert process_ids([run]) == f"{pids[0]} -> {pids[1]}, {pids[2]}, {pids[3]}"


def test_a_prefix_that_was_not_stored_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TiercelError, match="stored nothing"):
        measure_restart(config(tiny_model, tmp_path, kv_disk_min_tokens=1024), LOAD, 1, Workload(259), quiet)


def test_a_prefix_is_whole_blocks(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="prefix_tokens: must be a multiple of 64"):
        measure_restart(config(tiny_model, tmp_path), PrefixLoad(100, 64), 1, Workload(259), quiet)


def test_tables_hold_what_the_bound_is_made_of() -> None:
    def restart(pid: int, from_disk: float) -> Restart:
        return Restart(pid, ready=2.0, raw_read=0.4, from_disk=from_disk, in_memory=0.5, resident=0.25)

    runs = [RestartRun(1, 8.0, 1000, tuple(restart(pid, pid / 4) for pid in (2, 3, 4)), "plan") for _ in range(2)]
    tables = restart_tables(LOAD, runs)
    assert list(tables) == [*(scenario.name for scenario in SCENARIOS), "around it"]
    seconds = {row["what"]: row["seconds"] for row in tables["page cache cold"]}
    assert seconds == {
        "raw read of the stored bytes": Summary((0.4, 0.4)),
        "TTFT, prefix in memory": Summary((0.5, 0.5)),
        "bound: both and 0.1 s": Summary((1.0, 1.0)),
        "TTFT, prefix on disk": Summary((0.75, 0.75)),
    }
    assert tables["page cache cold"][-1]["of the bound"] == Summary((0.75, 0.75))
    around = {row["what"]: row["value"] for row in tables["around it"]}
    assert around["prefix tokens, all of them from disk"] == 320
    assert around["in the page cache when cold, %"] == Summary((25.0, 25.0))
