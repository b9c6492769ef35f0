"""A process that is made to be killed: the real scheduler, manager, movers and file store around the null model."""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from time import sleep
from typing import Literal, NamedTuple

from tests.support.engines import Setup, collect, make_core, plain_loop, settle, submit
from tests.support.layers import layered_executor, layered_groups
from tiercel.engine.core import EngineCore
from tiercel.engine.messages import Submit
from tiercel.kv import tier, transfer
from tiercel.kv.objects import object_bytes
from tiercel.stores import FileStore

GROUPS = layered_groups(num_layers=2, head_dim=16)
MAKE = layered_executor(vocab_size=10**6)
SETUP = Setup(num_blocks=14, max_num_seqs=4, max_num_batched_tokens=128)
CAPACITY = 16 * object_bytes(GROUPS[0].layout)  # about a third of what the prompts fill

NOBODY = 65534  # a user without rights

Act = Literal["write", "sweep", "load", "clear"]
ACTS: tuple[Act, ...] = ("write", "sweep", "load", "clear")


class Aim(NamedTuple):
    """When a process is to be killed: as it takes step `count` of an act. frozen: whether the thread stops right before it."""

    act: Act
    count: int
    frozen: bool


class Answer(NamedTuple):
    """A request that is finished."""

    request_id: str
    token_ids: list[int]


class Reached(NamedTuple):
    """The process is where it is to be killed. step: what it is about to do."""

    step: str


class Report(NamedTuple):
    """What a process that came to its end has to say. log: warnings and worse."""

    counts: dict[str, float]
    stored_tokens: int
    log: list[str]


@cache
def requests() -> dict[str, Submit]:
    """Prompts that share beginnings of many lengths; some answers are long enough to fill blocks of their own."""
    random = Random("prompts")
    stems = [[random.randrange(10**6) for _ in range(200)] for _ in range(4)]
    prompts = [
        random.choice(stems)[: random.randrange(50, 200)] + [random.randrange(10**6) for _ in range(random.randrange(1, 70))]
        for _ in range(24)
    ]
    return {f"r{i}": submit(f"r{i}", prompt, max_tokens=random.choice([1, 2, 3, 30])) for i, prompt in enumerate(prompts)}


@cache
def expected(request_id: str) -> list[int]:
    """What the request's answer must be."""
    return plain_loop(requests()[request_id], GROUPS, MAKE)[0]


def busy_core(store: FileStore) -> EngineCore:
    """An engine that moves blocks as often as it can."""
    transfer.WAVE_BYTES = 1  # each layer is read by itself
    tier.WRITE_CPU_SHARE = 1.0
    core = make_core(SETUP, GROUPS, MAKE, store)
    core.manager.computed = lambda num_tokens, seconds: None  # else: no store is as fast as the null model
    return core


def work_until_killed(folder: Path, seed: int, aim: Aim, parent: Connection) -> None:
    """Answers requests at random for ever; sometimes somebody clears the store meanwhile."""
    random, lock = Random(seed), threading.Lock()

    def tell(message: object) -> None:
        with lock:
            parent.send(message)

    store = WatchedStore(folder)
    sys.addaudithook(Watch(store, aim, tell))
    core = busy_core(store)
    while True:
        for answer in answers(core, random.sample([*requests()], random.randrange(1, 8))):
            tell(answer)
        if random.random() < 0.5:
            settle(core)
        if random.random() < 0.15:
            threading.Thread(target=store.clear, daemon=True).start()


def work_alone(folder: Path, seed: int, parent: Connection) -> None:
    """Answers every request, and comes to a clean end with its books in order."""
    store = work_through(folder, seed, 1, parent)
    store.check_integrity()


def work_through(folder: Path, seed: int, rounds: int, parent: Connection) -> "WatchedStore":
    """Answers every request, once in each round, and comes to a clean end."""
    log, random, store = Log(), Random(seed), WatchedStore(folder)
    logging.getLogger("tiercel").addHandler(log)
    core = busy_core(store)
    for _ in range(rounds):
        for answer in answers(core, random.sample([*requests()], len(requests()))):
            parent.send(answer)
    settle(core)
    stats = core.stats()
    core.close()
    parent.send(Report(stats.tier, stats.prefix_stored_tokens, log.lines))
    return store


def work_unprivileged(folder: Path, seed: int, parent: Connection) -> None:
    """The same as a user to whom permissions matter."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    work_alone(folder, seed, parent)


def clear_for_ever(folder: Path, parent: Connection) -> None:
    """Until killed."""
    store = WatchedStore(folder)
    while True:
        store.clear()
        sleep(0.01)


def answers(core: EngineCore, request_ids: Sequence[str]) -> Iterator[Answer]:
    for request_id in request_ids:
        core.submit(requests()[request_id])
    tokens: dict[tuple[str, int], list[int]] = {}
    while core.has_work:
        updates = core.step()
        collect(tokens, updates)
        core.check_integrity()
        yield from (Answer(u.request_id, tokens[u.request_id, 0]) for u in updates if u.finish_reason is not None)


class WatchedStore(FileStore):
    """Knows which act each thread is at."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, capacity=CAPACITY, free_floor=0)
        self._now = threading.local()

    def act(self) -> str:
        """What this thread does with the store; empty for nothing of interest."""
        return getattr(self._now, "act", "")

    def get(self, reads, deadline):
        with self._at("load"):
            return super().get(reads, deadline)

    def put(self, writes, deadline):
        with self._at("write"):
            return super().put(writes, deadline)

    def clear(self, namespace=None):
        with self._at("clear"):
            return super().clear(namespace)

    @contextmanager
    def _at(self, act: Act) -> Iterator[None]:
        self._now.act = act
        yield
        self._now.act = ""


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


class Watch:
    """Counts what a store asks of the system: files opened, named, locked and removed, folders listed."""

    def __init__(self, store: WatchedStore, aim: Aim, tell) -> None:
        self._store = store
        self._aim = aim
        self._tell = tell
        self._count = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        act = self._store.act()
        if act == "write" and event == "os.remove" and str(arguments[0]).endswith(".kv"):
            act = "sweep"
        if act != self._aim.act:
            return
        self._count += 1
        if self._count == self._aim.count:
            self._tell(Reached(f"{act}: {event}"))
            while self._aim.frozen:
                sleep(60)
