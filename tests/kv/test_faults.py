"""A cache that misbehaves is a miss, a count and a line of the log: never a wrong token, a crash or a request that waits."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.driver import GROUPS, OBJECT_BYTES, Driver, GuardedStore, prompt, store_with
from tests.support.objects import flip_bit
from tests.support.stores import Fault, keys_in
from tiercel.kv import breaker, retrieval, tier
from tiercel.kv.breaker import Breaker
from tiercel.kv.objects import PREFIX_BYTES, check_object, header_end, payload_start
from tiercel.stores import FileStore, MemoryStore
from tiercel.types import BLOCK_TOKENS

B = BLOCK_TOKENS


class Clock:
    """Goes on only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Of deadlines and breakers; stores have the real one, and as much of it as they like."""
    clock = Clock()
    monkeypatch.setattr(retrieval, "monotonic", clock)
    monkeypatch.setattr(tier, "Breaker", lambda: Breaker(clock))
    return clock


class Timeless(GuardedStore):
    """Knows no deadlines: those of the tests' clock are long past."""

    def exists(self, keys, deadline):
        return super().exists(keys, float("inf"))

    def get(self, reads, deadline):
        return super().get(reads, float("inf"))


def timeless(*prompts) -> Timeless:
    return Timeless(store_with(*prompts).inner)


LATE = 10_000.0  # seconds, later than any deadline


def warnings(caplog) -> list[dict]:
    """The log's lines."""
    return [record.event_dict for record in caplog.records if record.levelname == "WARNING"]


# -- stores that hang --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exists", "get"])
def test_who_waits_for_a_store_that_hangs_computes_in_the_end_and_others_never_wait(clock, method):
    stored = prompt("stored", 3)
    store = timeless(stored)
    with Driver(store) as driver:
        driver.submit("running", prompt("running", 1), max_tokens=50)
        driver.until(lambda: driver.reuse)
        store.stuck = {method}
        driver.submit("waiting", stored)
        driver.until(lambda: "running" in driver.finished)
        assert driver.finished == ["running"]
        clock.now += LATE
        driver.run()
        assert driver.finished == ["running", "waiting"]
        assert driver.reuse["waiting"].miss.reason == "timed_out"
        assert driver.reuse["waiting"].computed_tokens == len(stored)
        assert driver.counts["load_failures" if method == "get" else "look_up_failures"] == 1


def test_slots_that_are_being_filled_are_given_to_nobody_until_the_read_returns(clock):
    stored = prompt("stored", 4)
    store = timeless(stored)
    with Driver(store, num_blocks=12) as driver:
        store.stuck, store.calls["get"] = {"get"}, 0
        driver.submit("late", stored)
        driver.until(lambda: store.calls["get"] > 0)
        clock.now += LATE
        driver.run()
        assert driver.num_held == 4
        for number in range(3):  # would fill the whole device
            driver.submit(f"r{number}", prompt(f"other {number}", 3), max_tokens=100)
        driver.until(lambda: len(driver.reuse) > 1)
        store.free()  # what is read now must hit nobody's blocks
        driver.run()
        assert driver.counts["blocks_loaded"] == 4


def test_who_waits_for_anothers_load_does_not_wait_for_ever(clock):
    stored = prompt("stored", 3)
    store = timeless(stored)
    with Driver(store) as driver:
        store.stuck = {"get"}
        driver.submit("first", stored)
        driver.submit("second", [*stored[:-1], 5])
        driver.until(lambda: driver.core.stats().requests_loading == 2)
        driver.abort("first")
        clock.now += LATE
        driver.run()
        assert driver.finished == ["second"]
        assert driver.reuse["second"].miss.reason == "timed_out"


@pytest.mark.parametrize("method", ["exists", "get"])
def test_a_store_that_is_always_late_is_left_alone(clock, method):
    prompts = [prompt(f"stored {number}", 2) for number in range(breaker.FAILURES + 1)]
    store = timeless(*prompts)
    with Driver(store) as driver:
        for number, token_ids in enumerate(prompts[:-1]):
            store.stuck = {method}
            driver.submit(f"r{number}", token_ids)
            driver.until(lambda: driver.core.stats().requests_loading or method == "exists")
            clock.now += retrieval._LOAD_SECONDS + 1
            driver.run()
            store.free()
            driver.until(lambda: not driver.num_held and not driver.core.manager.wait(0.01))
        assert driver.counts["read_breaker_open"]
        assert driver.ask("then", prompts[-1]).miss.reason == "store_failed"
        assert driver.counts["look_ups"] == breaker.FAILURES


def test_a_writer_that_hangs_holds_up_nobody():
    store = GuardedStore()
    store.stuck = {"put"}
    with Driver(store, num_blocks=12, max_num_seqs=4) as driver:
        for number in range(6):
            driver.ask(f"r{number}", prompt(f"p{number}", 4))
        driver.submit("first", prompt("first", 1), max_tokens=60)
        driver.until(lambda: "first" in driver.reuse)
        driver.submit("beside it", prompt("beside it", 5))
        driver.looked_up("beside it")
        driver.step()
        assert driver.core.stats().requests_running == 2, "slots that only wait to be written are free to use"
        driver.run()
        assert driver.counts["blocks_dropped"] > 10
        assert not keys_in(store)


@pytest.mark.parametrize("method", ["exists", "get"])
def test_an_aborted_request_leaves_nothing_behind_though_the_store_hangs(method):
    stored = prompt("stored", 3)
    store = store_with(stored)
    with Driver(store) as driver:
        store.stuck, store.calls[method] = {method}, 0
        driver.submit("gone", stored)
        driver.until(lambda: store.calls[method] > 0)
        driver.abort("gone")
        assert not driver.core.has_work
        driver.step()
        store.free()
        assert driver.ask("again", stored).computed_tokens == 1


# -- answers that are wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "count", "reason"),
    [
        (Fault.ERROR, "loads_store_failed", "store_failed"),
        (Fault.MISSING, "loads_evicted", "evicted"),
        (Fault.LATE, "loads_timed_out", "timed_out"),
        (Fault.SHORT, "loads_corrupt", "corrupt"),
        (Fault.FLIP, "loads_corrupt", "corrupt"),
    ],
)
def test_a_read_that_fails_is_a_miss(fault, count, reason):
    stored = prompt("stored", 3)
    store = store_with(stored)
    store.plan = lambda method, key: fault if method == "get" else None
    with Driver(store) as driver:
        reuse = driver.ask("r", stored)
        assert (reuse.stored_tokens, reuse.miss.reason) == (0, reason)
        assert driver.counts[count] == 3


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.FULL, Fault.LATE])
def test_a_write_that_fails_is_dropped_and_counted(fault, caplog):
    store = GuardedStore(plan=lambda method, key: fault if method == "put" else None)
    with Driver(store) as driver:
        driver.ask("r", prompt("new", 4))
        driver.until(lambda: driver.counts["write_failures"] == 4)
        assert driver.counts["write_breaker_open"]
        assert driver.counts["blocks_dropped"] == 4
        assert driver.counts["blocks_written"] == 0
        assert [line["doing"] for line in warnings(caplog)] == ["write"]


@pytest.mark.parametrize("method", ["exists", "delete", "describe", "namespaces"])
def test_other_calls_may_fail(method):
    stored = prompt("stored", 3)
    store = store_with(stored)
    store.plan = lambda asked, key: Fault.ERROR if asked == method else None
    with Driver(store) as driver:
        driver.ask("r", stored)


def places_to_flip(data: bytes) -> list[int]:
    """Every byte of the prefix, many of the header and of the payload, some of the nothing between them."""
    end, payload = header_end(data), payload_start(GROUPS[0].layout)
    return [*range(PREFIX_BYTES), *range(PREFIX_BYTES, end, 7), end, payload - 1, *range(payload, len(data), 41), len(data) - 1]


def test_a_bit_flipped_anywhere_is_found_and_mended(tmp_path, caplog):
    token_ids = prompt("stored", 1)
    with Driver(GuardedStore(FileStore(tmp_path, capacity=2**30, free_floor=0))) as driver:
        driver.ask("first", token_ids)
        driver.written()
        (file,) = tmp_path.rglob("*.kv")
        (entry,) = driver.store.list()
        places = places_to_flip(file.read_bytes())
        assert len(places) > 70
        for number, place in enumerate(places):
            file.write_bytes(flip_bit(file.read_bytes(), place, number % 8))
            driver.core.forget()
            reuse = driver.ask(f"flipped at {place}", token_ids)
            assert (reuse.stored_tokens, reuse.miss.reason) == (0, "corrupt"), place
            driver.written()
            check_object(memoryview(file.read_bytes()), entry.key)
        assert driver.counts["loads_corrupt"] == len(places)
        assert len([line for line in warnings(caplog) if "corrupt" in line["event"]]) == len(places)
        driver.core.forget()
        assert driver.ask("mended", token_ids).stored_tokens == B


# -- files and folders -------------------------------------------------------------------------------------------------------


def truncated(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path, other: Path) -> None:
    file.write_bytes(b"GGUF" * 5000)


def anothers(file: Path, other: Path) -> None:
    shutil.copy(other, file)


def folder(file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


def link(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


def endless_link(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def pipe(file: Path, other: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("change", [truncated, empty, foreign, anothers, folder, link, endless_link, pipe])
def test_files_that_are_no_objects_are_misses(tmp_path, change):
    token_ids = prompt("stored", 2)
    store = GuardedStore(FileStore(tmp_path, capacity=2**30, free_floor=0))
    with Driver(store) as driver:
        driver.ask("first", token_ids)
        driver.written()
        files = sorted(tmp_path.rglob("*.kv"))
        change(*files)
        driver.core.forget()
        assert driver.ask("second", token_ids).stored_tokens <= B
        driver.written()
        driver.core.forget()
        driver.ask("third", token_ids)


def test_a_folder_that_vanishes_is_an_empty_store(tmp_path):
    token_ids = prompt("stored", 3)
    root = tmp_path / "root"
    with Driver(GuardedStore(FileStore(root, capacity=2**30, free_floor=0))) as driver:
        for name in ("first", "again"):
            driver.ask(name, token_ids)
            driver.written()
            assert len([*root.rglob("*.kv")]) == 3
            driver.core.forget()
            shutil.rmtree(root)
        assert driver.ask("after", token_ids).stored_tokens == 0


def test_a_folder_that_becomes_a_file_is_a_failing_store(tmp_path):
    root = tmp_path / "root"
    with Driver(GuardedStore(FileStore(root, capacity=2**30, free_floor=0))) as driver:
        driver.ask("first", prompt("stored", 3))
        driver.written()
        driver.core.forget()
        shutil.rmtree(root)
        root.write_text("no folder")
        for name in "abcd":
            assert driver.ask(name, prompt("stored", 3, more=9)).stored_tokens == 0
            driver.core.forget()
        driver.until(lambda: driver.counts["write_failures"] > 0)


# -- breakers ----------------------------------------------------------------------------------------------------------------


def test_a_store_that_fails_is_left_alone_and_asked_again_later(clock, caplog):
    prompts = [prompt(f"stored {number}", 3) for number in range(5)]
    store = timeless(*prompts)
    store.plan = lambda method, key: Fault.ERROR if method == "get" else None
    with Driver(store) as driver:
        driver.ask("fails", prompts[0])
        assert driver.counts["read_breaker_open"]
        assert [line["doing"] for line in warnings(caplog)] == ["load"]
        asked = store.calls["get"]
        reuse = driver.ask("left alone", prompts[1])
        assert (reuse.stored_tokens, reuse.miss.reason) == (0, "store_failed")
        assert store.calls["get"] == asked
        clock.now += breaker.FIRST_PAUSE
        driver.ask("fails again", prompts[2])
        assert store.calls["get"] == asked + 1
        assert driver.counts["read_breaker_open"]
        store.plan = lambda method, key: None
        assert driver.ask("still left alone", prompts[3]).stored_tokens == 0
        clock.now += 2 * breaker.FIRST_PAUSE
        assert driver.ask("works", prompts[4]).stored_tokens == 3 * B
        assert not driver.counts["read_breaker_open"]


def test_a_full_store_is_tried_again_later(clock):
    store = GuardedStore(plan=lambda method, key: Fault.FULL if method == "put" else None)
    with Driver(store) as driver:
        driver.ask("full", prompt("a", 5))
        driver.until(lambda: driver.counts["write_breaker_open"] > 0)
        store.plan = lambda method, key: None
        clock.now += breaker.FIRST_PAUSE
        driver.ask("room", prompt("b", 5))
        driver.written()
        assert len(keys_in(store)) >= 5


def test_a_store_too_small_for_anything_hurts_nobody():
    store = GuardedStore(MemoryStore(OBJECT_BYTES - 1))
    with Driver(store) as driver:
        driver.ask("r", prompt("a", 5))
        driver.until(lambda: driver.counts["write_failures"] >= breaker.FAILURES)
