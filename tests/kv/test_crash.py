"""Processes killed at random points of all they do with a store, and others that go on with what they left behind.

In each folder ten processes are killed one after the other, each at a point drawn at random: while it writes, removes what was used
longest ago, loads, or clears the store; every second one exactly before a call to the system, the others some moments after it.
After each, a new process must answer every request right, find no torn object, and end with its books in order. `make soak`
runs many more folders.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from time import sleep

import pytest

from tests.support import crash_process
from tests.support.crash_process import ACTS, Aim, Answer, Reached, Report, expected, requests

POINTS_IN_A_FOLDER = 10
FOLDERS = {"default": 4, "soak": 48}
PATIENCE = 60  # seconds
STEPS = {"write": 400, "sweep": 40, "load": 200, "clear": 60}  # how far into an act the points lie, at most


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "folder_number" in metafunc.fixturenames:
        profile = metafunc.config.getoption("--hypothesis-profile") or "default"
        metafunc.parametrize("folder_number", range(FOLDERS[profile]))


@pytest.fixture(scope="module")
def processes():
    """Starts processes in no time: they are forked from one that has imported everything and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([crash_process.__name__])
    return context


@contextmanager
def started(processes, work, *arguments) -> Iterator[tuple]:
    """A process and what it says."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


def told(connection) -> Iterator[Answer | Reached | Report]:
    """What a process says until it ends. Answers are checked as they come."""
    while True:
        assert connection.poll(PATIENCE), "the process hangs"
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, Answer):
            assert message.token_ids == expected(message.request_id), message.request_id
        yield message


def kill_at(processes, folder, random: Random, aim: Aim) -> str:
    """Returns what the process was about to do when it was killed."""
    with started(processes, crash_process.work_until_killed, folder, random.randrange(2**32), aim) as (process, connection):
        reached = next((message for message in told(connection) if isinstance(message, Reached)), None)
        assert reached is not None, f"the process ended by itself: {process.exitcode}"
        sleep(0 if aim.frozen else random.uniform(0, 0.002))
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -9
        list(told(connection))  # what it said before it died is right too
    return reached.step


def go_on(processes, folder, random: Random) -> Report:
    """A new process on the same folder, until it ends by itself."""
    with started(processes, crash_process.work_through, folder, random.randrange(2**32)) as (process, connection):
        messages = list(told(connection))
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert {message.request_id for message in messages if isinstance(message, Answer)} == set(requests())
    (report,) = (message for message in messages if isinstance(message, Report))
    return report


def test_what_killed_processes_leave_behind_is_whole(processes, folder_number, tmp_path):
    loaded = 0
    steps = set()
    for point in range(POINTS_IN_A_FOLDER):
        random = Random(folder_number * POINTS_IN_A_FOLDER + point)
        act = ACTS[point % len(ACTS)]
        aim = Aim(act, random.randrange(1, STEPS[act]), frozen=random.random() < 0.5)
        step = kill_at(processes, tmp_path, random, aim)
        report = go_on(processes, tmp_path, random)
        where = f"folder {folder_number}, point {point}: {aim}, killed at {step}, then {report}"
        assert report.errors == [], where
        assert not any(report.counts.get(f"loads_{reason}") for reason in ("corrupt", "store_failed")), where
        assert crash_process.WatchedStore(tmp_path).usage().bytes <= crash_process.CAPACITY, where
        assert [*(tmp_path / "v1" / "tmp").iterdir()] == [], where
        loaded += report.stored_tokens
        steps.add(step)
    assert loaded > 0
    assert len(steps) > len(ACTS), steps
