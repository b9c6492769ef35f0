"""Threads that move blocks while the engine computes: readers for look-ups and loads, one writer that keeps to a pace."""

import itertools
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from time import monotonic, thread_time

from tiercel.telemetry import get_logger

log = get_logger("tiercel.kv")

NUM_READERS = 2
_LOOK_UPS_FIRST = 0
_LOADS = 1
_READERS_SECONDS = 1.0  # for a read under way when everything ends


class State(Enum):
    """A job's life: queued -> running -> (queued again, for its next piece) -> done; or queued -> cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class Job(ABC):
    """Work for a mover. The thread that steps the engine makes it, may cancel it, and gets it back once it has ended."""

    priority = _LOADS

    def __init__(self) -> None:
        self.state = State.QUEUED
        self._lock = threading.Lock()

    @abstractmethod
    def run(self) -> bool:
        """Does the next piece, on a mover thread. Returns whether another one follows."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Takes note of an error that `run` did not foresee; whatever the job was to bring is a miss."""

    def cancel(self) -> bool:
        """Whether the job will do nothing any more: it had not begun, or it has ended."""
        with self._lock:
            if self.state is State.QUEUED:
                self.state = State.CANCELLED
            return self.state is not State.RUNNING

    def advance(self) -> None:
        """Runs one piece, unless the job was cancelled while it was queued."""
        with self._lock:
            if self.state is not State.QUEUED:
                return
            self.state = State.RUNNING
        more = False
        try:
            more = self.run()
        except OSError as error:
            log.warning("the KV store failed", job=type(self).__name__, reason=str(error))
            self.fail(error)
        except Exception as error:
            log.exception("a mover's job failed", job=type(self).__name__)
            self.fail(error)
        with self._lock:
            self.state = State.QUEUED if more else State.DONE


class LookUpJob(Job):
    """A job that goes before loads: it is short, and requests wait for it."""

    priority = _LOOK_UPS_FIRST


class Pace:
    """How fast the writer may go: a share of one processor while the engine computes, and bytes per second always."""

    def __init__(self, cpu_share: float, bytes_per_second: float) -> None:
        self.cpu_seconds = 0.0  # spent writing so far
        self._cpu_share = cpu_share
        self._bytes_per_second = bytes_per_second
        self._hurry = threading.Event()  # the engine rests: its processors are free
        self._hurry.set()
        self._stopped = threading.Event()

    def set_busy(self, busy: bool) -> None:
        """Says whether the engine computes."""
        if busy:
            self._hurry.clear()
        else:
            self._hurry.set()

    def rest(self, cpu_seconds: float, bytes_written: int) -> None:
        """Sleeps as long as the work just done asks for."""
        self.cpu_seconds += cpu_seconds
        self._hurry.wait(cpu_seconds / self._cpu_share)
        self._stopped.wait(bytes_written / self._bytes_per_second)

    def stop(self) -> None:
        """No more sleeping."""
        self._hurry.set()
        self._stopped.set()


class Movers:
    """Runs jobs on threads of its own. `submit`, `submit_write`, `take_ended` and `wait` belong to the engine's thread."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._sequence = itertools.count()
        self._reads: queue.PriorityQueue[tuple[int, int, Job | None]] = queue.PriorityQueue()
        self._writes: queue.SimpleQueue[WriteJob | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._readers = [_start(self._read, f"tiercel-reader-{number}") for number in range(NUM_READERS)]
        self._writer = _start(self._write, "tiercel-writer")

    def submit(self, job: Job) -> None:
        self._reads.put((job.priority, next(self._sequence), job))

    def submit_write(self, job: "WriteJob") -> None:
        self._writes.put(job)

    def take_ended(self) -> list[Job]:
        """Jobs that ended since the last call. Cancelled ones are not among them."""
        self._wake.clear()
        ended = []
        while True:
            try:
                ended.append(self._ended.get_nowait())
            except queue.Empty:
                return ended

    def wait(self, seconds: float) -> None:
        """Until a job has ended that was not taken yet, at most so long."""
        self._wake.wait(seconds)

    def close(self, seconds: float) -> bool:
        """Writes what is queued and ends the threads. False if one had to be left behind: the store hangs, or needs longer."""
        self.pace.stop()
        for _ in self._readers:
            self._reads.put((_LOOK_UPS_FIRST - 1, next(self._sequence), None))
        self._writes.put(None)
        self._writer.join(seconds)
        deadline = monotonic() + _READERS_SECONDS
        for thread in self._readers:
            thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in (self._writer, *self._readers))

    # -- on the threads -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while (job := self._reads.get()[2]) is not None:
            job.advance()
            if job.state is State.QUEUED:
                self.submit(job)  # at the end of the queue, so that all jobs reach their next layers together
            elif job.state is State.DONE:
                self._report(job)

    def _write(self) -> None:
        while (job := self._writes.get()) is not None:
            start = thread_time()
            job.advance()
            if job.state is State.QUEUED:
                self.submit_write(job)
            elif job.state is State.DONE:
                self._report(job)
            self.pace.rest(thread_time() - start, job.bytes_written)

    def _report(self, job: Job) -> None:
        self._ended.put(job)
        self._wake.set()


class WriteJob(Job):
    """A job for the writer. bytes_written: what its pace is reckoned by."""

    bytes_written = 0


def _start(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
