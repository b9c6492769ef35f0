"""Processes killed at random points of all they do with a store, and others that go on with what they left behind.

In each folder ten processes are killed one after the other, each at a point drawn at random: while it writes, removes what was
used longest ago, loads, or clears the store; some exactly before a call to the system, the others a moment after one. After
each, a new process must answer every request right, find no torn object, and end with its books in order. `make soak` runs many
more folders.
"""

from pathlib import Path
from random import Random
from time import sleep

import pytest

from tests.support import crash_process
from tests.support.crash import PATIENCE, started, told, work_alone
from tests.support.crash_process import ACTS, CAPACITY, Aim, Reached, WatchedStore

POINTS_IN_A_FOLDER = 10
FOLDERS = {"default": 4, "soak": 48}
STEPS = {"write": 250, "sweep": 20, "load": 100, "clear": 40}  # how far into an act the points lie, at most


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "folder_number" in metafunc.fixturenames:
        profile = metafunc.config.getoption("--hypothesis-profile") or "default"
        metafunc.parametrize("folder_number", range(FOLDERS[profile]))


def kill_at(folder: Path, random: Random, aim: Aim) -> str:
    """Returns what the process was about to do when it was killed, or a moment before."""
    with started(crash_process.work_until_killed, folder, random.randrange(2**32), aim) as (process, connection):
        reached = next((message for message in told(connection) if isinstance(message, Reached)), None)
        assert reached is not None, f"the process ended by itself: {process.exitcode}"
        sleep(0 if aim.frozen else random.uniform(0, 0.002))
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -9
        list(told(connection))  # what it said before it died is right too
    return reached.step


def test_what_killed_processes_leave_behind_is_whole(folder_number, tmp_path):
    loaded = 0
    acts = set()
    for point in range(POINTS_IN_A_FOLDER):
        random = Random(folder_number * POINTS_IN_A_FOLDER + point)
        act = ACTS[point % len(ACTS)]
        aim = Aim(act, random.randrange(1, STEPS[act]), frozen=random.random() < 0.5)
        step = kill_at(tmp_path, random, aim)
        report = work_alone(tmp_path, random.randrange(2**32))
        where = f"folder {folder_number}, point {point}: {aim}, killed at {step}, then {report}"
        assert report.log == [], where
        assert not any(report.counts.get(f"loads_{reason}") for reason in ("corrupt", "store_failed")), where
        assert WatchedStore(tmp_path).usage().bytes <= CAPACITY, where
        assert [*(tmp_path / "v1" / "tmp").iterdir()] == [], where
        loaded += report.stored_tokens
        acts.add(step.partition(":")[0])
    assert loaded > 0
    assert acts == set(ACTS), "the points lie in all that is done with a store"
