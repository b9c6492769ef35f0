"""Tiercel in a process of its own, started as the peers are."""

import sys
from pathlib import Path

import pytest

from tiercel.bench.peers.external import ExternalPeer, serve_command
from tiercel.bench.peers.installed import OWN
from tiercel.bench.workload import Workload
from tiercel.types import TiercelError


def start(model: Path, **settings: object) -> ExternalPeer:
    return ExternalPeer("tiercel", serve_command(sys.executable, OWN, "", str(model), 1, {"kv_memory": "8MiB", **settings}))


def test_one_and_many(tiny_model: Path) -> None:
    peer = start(tiny_model)
    workload = Workload(259)
    done = peer.generate(workload.prompt(70), 5)
    assert min(done.first, done.rest) > 0
    times = peer.generate_many(workload.prompts(3, 40), 4)
    assert len(times) == 3
    assert all(0 < each.first < each.last for each in times)


def test_what_it_keeps_is_on_disk(tiny_model: Path, tmp_path: Path) -> None:
    kept = start(tiny_model, kv_disk=str(tmp_path), kv_disk_min_tokens=64)
    kept.generate(Workload(259).prompt(200), 1)
    kept.keep()
    assert len(list(tmp_path.rglob("*.kv"))) == 3
    kept.close()
    later = start(tiny_model, kv_disk=str(tmp_path))
    assert later.recall() < 1
    assert later.generate(Workload(259).prompt(200), 1).first > 0


def test_settings_that_cannot_be_met_are_told(tiny_model: Path) -> None:
    with pytest.raises(TiercelError, match="tiercel ended with code 1"):
        start(tiny_model, kv_memory="none")
