"""The threads that move blocks: order, cancellation, pace and end."""

import threading

import pytest

from tiercel.kv.movers import NUM_READERS, Job, LookUpJob, Movers, Pace, State, WriteJob


class Steps(Job):
    """Runs a few pieces, each noted in `log`; waits for `gate` in every one."""

    def __init__(self, name="", pieces=1, log=None, gate=None):
        super().__init__()
        self.name, self.pieces, self.log = name, pieces, [] if log is None else log
        self.gate = gate or threading.Event()
        if gate is None:
            self.gate.set()
        self.begun = threading.Event()
        self.error = None

    def run(self):
        self.begun.set()
        assert self.gate.wait(60)
        self.log.append(self.name)
        self.pieces -= 1
        return self.pieces > 0

    def fail(self, error):
        self.error = error


class Ask(Steps, LookUpJob):
    pass


class Put(Steps, WriteJob):
    pass


class Broken(Put):
    def run(self):
        raise RuntimeError("boom")


@pytest.fixture
def movers():
    movers = Movers(Pace(1.0, float("inf")))
    yield movers
    assert movers.close(60)


def ended(movers, count):
    jobs = []
    while len(jobs) < count:
        movers.wait(60)
        jobs += movers.take_ended()
    return jobs


def occupied(movers):
    """Jobs that keep every reader busy until their gate is opened."""
    gate = threading.Event()
    jobs = [Steps("blocker", gate=gate) for _ in range(NUM_READERS)]
    for job in jobs:
        movers.submit(job)
        assert job.begun.wait(60)
    return gate


def test_a_job_comes_back_done(movers):
    job = Steps(pieces=3)
    movers.submit(job)
    assert ended(movers, 1) == [job]
    assert job.state is State.DONE
    assert len(job.log) == 3


def test_pieces_of_queued_jobs_take_turns_and_look_ups_go_first(movers):
    gate = occupied(movers)
    blocked = [Steps("blocker", gate=threading.Event()) for _ in range(NUM_READERS - 1)]
    log = []
    for job in (Steps("a", 2, log), Steps("b", 2, log), Ask("question", 1, log)):
        movers.submit(job)
    for job in blocked:  # all readers but one stay busy, so that the order is the queue's
        movers._reads.put((-1, 0, job))
    gate.set()
    finished = ended(movers, NUM_READERS + 3)
    for job in blocked:
        job.gate.set()
    ended(movers, len(blocked))
    assert log == ["question", "a", "b", "a", "b"]
    assert len(finished) == NUM_READERS + 3


def test_a_job_that_has_not_begun_can_be_cancelled_and_never_runs(movers):
    gate = occupied(movers)
    job = Steps()
    movers.submit(job)
    assert job.cancel()
    assert job.state is State.CANCELLED
    gate.set()
    after = Steps()
    movers.submit(after)
    assert job not in ended(movers, NUM_READERS + 1)
    assert job.log == []


def test_a_running_job_cannot_be_cancelled(movers):
    gate = threading.Event()
    job = Steps(gate=gate)
    movers.submit(job)
    assert job.begun.wait(60)
    assert not job.cancel()
    gate.set()
    assert ended(movers, 1) == [job]
    assert job.cancel()
    assert job.state is State.DONE


def test_a_job_that_breaks_is_told_and_the_thread_lives_on(movers):
    broken, fine = Broken(), Put()
    movers.submit_write(broken)
    movers.submit_write(fine)
    assert ended(movers, 2) == [broken, fine]
    assert isinstance(broken.error, RuntimeError)


def test_closing_runs_what_is_queued():
    movers = Movers(Pace(1e-9, float("inf")))
    movers.pace.set_busy(True)
    jobs = [Put() for _ in range(20)]
    for job in jobs:
        movers.submit_write(job)
    assert movers.close(60), "no rest between jobs once it closes"
    assert all(job.state is State.DONE for job in jobs)


def test_closing_leaves_a_hanging_job_behind():
    movers = Movers(Pace(1.0, float("inf")))
    gate = threading.Event()
    job = Steps(gate=gate)
    movers.submit(job)
    assert job.begun.wait(60)
    assert not movers.close(0.05)
    gate.set()
    assert movers.close(60)


def test_the_pace_counts_processor_time_and_sleeps_only_while_the_engine_is_busy():
    pace = Pace(1e-9, float("inf"))
    pace.rest(1.0, 10)  # not busy: returns at once, though the share would ask for years
    pace.set_busy(True)
    resting = threading.Thread(target=pace.rest, args=(2.0, 10))
    resting.start()
    resting.join(0.05)
    assert resting.is_alive()
    pace.set_busy(False)
    resting.join(60)
    assert not resting.is_alive()
    assert pace.cpu_seconds == 3.0


def test_bytes_per_second_hold_also_while_the_engine_rests():
    pace = Pace(1.0, 1e-6)
    resting = threading.Thread(target=pace.rest, args=(0.0, 10))
    resting.start()
    resting.join(0.05)
    assert resting.is_alive()
    pace.stop()
    resting.join(60)
    assert not resting.is_alive()
