"""The parent's side of processes that are made to be killed: starts them, hears what they say, checks their answers."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support import crash_process
from tests.support.crash_process import Answer, Reached, Report, expected, requests

PATIENCE = 60.0  # seconds


@contextmanager
def started(work: Callable[..., None], *arguments: object) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process of its own, started in no time: forked from one that has imported everything and has no threads."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([crash_process.__name__])
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def told(connection: Connection) -> Iterator[Answer | Reached | Report]:
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


def end_of(process: BaseProcess, connection: Connection) -> Report:
    """Waits for a process that should answer everything and end by itself."""
    messages = list(told(connection))
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert {message.request_id for message in messages if isinstance(message, Answer)} == set(requests())
    (report,) = (message for message in messages if isinstance(message, Report))
    return report


def work_alone(folder: Path, seed: int) -> Report:
    """A new process on a folder, until it ends by itself."""
    with started(crash_process.work_alone, folder, seed) as ends:
        return end_of(*ends)
