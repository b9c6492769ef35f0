"""Processes of their own, for tests of what several of them do to one folder."""

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from math import inf
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.support.stores import content_of, get, key_of, put
from tiercel.stores import FileStore, Status
from tiercel.stores.file import store as file_store

T = TypeVar("T")

# A clean process that forks the others: they start in no time, and without the threads of the one that runs the tests.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.stores.children"])
NOBODY = 65534


def open_store(root: Path, capacity: int = 2**30, free_floor: int = 0) -> FileStore:
    return FileStore(root, capacity=capacity, free_floor=free_floor)


def in_child(function: Callable[..., T], *arguments: object) -> T:
    """What a function returns or raises in another process. It must be one of a module."""
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        return pool.submit(function, *arguments).result(timeout=120)


@contextmanager
def child(function: Callable[..., None], *arguments: object):
    """A process that runs a function; killed at the end if it still does."""
    process: BaseProcess = PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def finish(process: BaseProcess) -> None:
    """Waits for a process that should come to its end."""
    process.join(120)
    assert process.exitcode == 0


# -- what children do --------------------------------------------------------------------------------------------------------


def write_for_ever(root: Path, capacity: int, size: int, seed: int) -> None:
    """Until killed."""
    store, random = open_store(root, capacity), Random(seed)
    while True:
        put(store, *(key_of(random.randrange(1000)) for _ in range(3)), size=size)
        store.touch([key_of(random.randrange(1000)) for _ in range(3)])


def use_at_random(root: Path, capacity: int, rounds: int, seed: int) -> None:
    """Puts, gets, touches and deletes. Whatever is read must be whole; nothing may fail but for want of room."""
    store, random = open_store(root, capacity), Random(seed)
    for _ in range(rounds):
        keys = [key_of(random.randrange(60)) for _ in range(4)]
        statuses = put(store, *keys, size=5000)
        assert set(statuses) <= {Status.OK, Status.FULL}, statuses
        for key in keys:
            assert get(store, key, 6000) in (None, content_of(key, 5000))
        store.touch(keys[:2])
        assert all(r.status in (Status.OK, Status.MISSING) for r in store.delete(keys[3:], inf))
    store.check_integrity()


def clear_again_and_again(root: Path, rounds: int) -> None:
    store = open_store(root)
    for _ in range(rounds):
        store.clear()
        list(store.list())
        store.usage()
        store.namespaces()


def stop_in_the_middle(root: Path, size: int) -> None:
    """Writes half an object, and then waits to be killed."""

    def half(fd: int, buffers: list[memoryview]) -> None:
        os.write(fd, b"".join(buffers)[: size // 2])
        os.kill(os.getpid(), 19)  # SIGSTOP

    file_store.new_file.__wrapped__.__globals__["write_all"] = half
    put(open_store(root), key_of(1), size=size)


def put_with_a_limit(root: Path, limit: int) -> list[tuple[Status, str]]:
    """Objects of 10, 1000 and 100,000 bytes, in a process whose files may not be longer than `limit`."""
    store = open_store(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    results = [store.put([write], inf)[0] for write in _writes(10, 1000, 100_000)]
    return [(result.status, result.detail) for result in results]
