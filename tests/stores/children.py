"""Processes of their own, for tests of what several of them do to one folder."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from math import inf
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TypeVar

from tests.support.stores import content_of, get, key_of, put, write_of
from tiercel.stores import FileStore, Read, Result, Status
from tiercel.stores.file import temporary
from tiercel.types import FORMAT_VERSION

T = TypeVar("T")

# A clean process that forks the others: they start in no time, and without the threads of the one that runs the tests.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.stores.children"])
NOBODY = 65534
OLDER, VERSION, NEWER = (f"v{FORMAT_VERSION + step}" for step in (-1, 0, 1))  # names of folders


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


# -- what children do ---------------------------------------------------------------------------------------------------------


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
        results = store.put([write_of(key, 5000) for key in keys], inf)
        assert {result.status for result in results} <= {Status.OK, Status.FULL}, results
        for key in keys:
            assert get(store, key, 6000) in (None, content_of(key, 5000))
        store.touch(keys[:2])
        results = store.delete(keys[3:], inf)
        assert {result.status for result in results} <= {Status.OK, Status.MISSING}, results


def clear_again_and_again(root: Path, rounds: int) -> None:
    store = open_store(root)
    for _ in range(rounds):
        store.clear()
        list(store.list())
        store.usage()
        store.namespaces()


def stop_in_the_middle(root: Path, size: int) -> None:
    """Writes half an object, and there it stands."""

    def half(fd: int, buffers: Sequence[memoryview]) -> None:
        os.write(fd, b"".join(buffers)[: size // 2])
        os.kill(os.getpid(), signal.SIGSTOP)

    temporary.write_all = half
    put(open_store(root), key_of(1), size=size)


def put_with_a_limit(root: Path, limit: int) -> list[Result]:
    """Objects of 10, 100,000 and 1,000 bytes, where no file may be longer than `limit`."""
    store = open_store(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return store.put([write_of(key_of(size), size) for size in (10, 100_000, 1000)], inf)


def drop_privileges() -> None:
    """Makes modes of files mean something to a process of the superuser."""
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)


def use_a_folder_that_became_read_only() -> list[Result]:
    """What get, put of a new object and of an old one, and delete answer."""
    drop_privileges()
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        put(open_store(root), key_of(1))
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o500)
        (root / VERSION / "usage.log").chmod(0o400)
        try:
            store = open_store(root)
            store.touch([key_of(1)])
            reads = store.get([Read(key_of(1), 0, [memoryview(bytearray(100))])], inf)
            return [*reads, *store.put([write_of(key_of(2)), write_of(key_of(1))], inf), *store.delete([key_of(1)], inf)]
        finally:
            for path in folders:
                path.chmod(0o700)


def open_the_root_of_another() -> None:
    drop_privileges()
    open_store(Path("/"))


def open_where_nothing_may_be_made() -> None:
    drop_privileges()
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o500)
        open_store(Path(folder) / "a" / "b")
