"""Blocks on their way between the device and a store: who shares a load, who gives way, what is written and when."""

from math import inf

import pytest

from tests.support.driver import OBJECT_BYTES, Driver, GuardedStore, prompt, store_with
from tests.support.engines import Setup, make_core, null_executor, run_to_end, submit
from tests.support.layers import layered_executor, layered_groups
from tests.support.objects import flip_bit
from tests.support.stores import Fault, get, keys_in
from tiercel.kv import WritePolicy, transfer
from tiercel.kv.objects import frame_bytes, payload_start
from tiercel.models.null import null_groups
from tiercel.stores import MemoryStore, Write
from tiercel.types import BLOCK_TOKENS

B = BLOCK_TOKENS

# -- loads -------------------------------------------------------------------------------------------------------------------


def test_two_who_want_the_same_prefix_share_one_load():
    stored = prompt("stored", 4)
    store = store_with(stored)
    with Driver(store) as driver:
        store.stuck = {"get"}
        driver.submit("one", stored)
        driver.submit("two", [*stored, 1, 2, 3])
        driver.until(lambda: driver.core.stats().requests_loading == 2)
        store.free()
        driver.run()
        assert driver.counts["bytes_loaded"] == 4 * OBJECT_BYTES
        assert driver.reuse["one"].stored_tokens == 4 * B
        assert driver.reuse["two"].device_tokens == 4 * B


@pytest.mark.parametrize("blocks", [3, 12])
def test_who_waits_for_a_load_that_is_given_up_loads_the_rest_itself(blocks):
    stored = prompt("stored", blocks)
    store = store_with(stored)
    with Driver(store) as driver:
        store.stuck = {"get"}
        driver.submit("one", stored)
        driver.submit("two", stored)
        driver.until(lambda: driver.core.stats().requests_loading == 2)
        driver.abort("one")
        store.free()
        driver.run()
        assert driver.finished == ["two"]
        assert driver.reuse["two"].computed_tokens == 1
        assert driver.counts["bytes_loaded"] == blocks * OBJECT_BYTES


def test_who_waits_for_a_load_that_fails_loads_by_itself():
    stored = prompt("stored", 3)
    store = store_with(stored)
    with Driver(store) as driver:
        store.stuck = {"get"}
        driver.submit("one", stored)
        driver.submit("two", stored)
        driver.until(lambda: driver.core.stats().requests_loading == 2)
        failing = iter([Fault.ERROR] * 3)
        store.plan = lambda method, key: next(failing, None) if method == "get" else None
        store.free()
        driver.run()
        assert driver.reuse["one"].miss.reason == "store_failed"
        assert driver.reuse["two"].computed_tokens == 1


def test_only_what_the_device_lacks_is_loaded():
    whole = prompt("stored", 5)
    store = store_with(whole)
    with Driver(store) as driver:
        driver.ask("start", whole[: 2 * B + 1])
        reuse = driver.ask("whole", whole)
        assert (reuse.device_tokens, reuse.stored_tokens) == (2 * B, 3 * B)
        assert driver.counts["blocks_loaded"] == 5


def test_others_are_admitted_while_a_better_request_loads():
    stored = prompt("stored", 3)
    store = store_with(stored)
    with Driver(store) as driver:
        store.stuck = {"get"}
        driver.submit("loads", stored, priority=-1)
        driver.until(lambda: driver.core.stats().requests_loading == 1)
        driver.submit("computes", prompt("other", 3))
        driver.until(lambda: driver.finished == ["computes"])


def test_running_requests_are_preempted_and_go_on_while_blocks_are_loaded():
    stored = prompt("stored", 3)
    store = store_with(stored)
    with Driver(store, num_blocks=9, max_num_batched_tokens=40) as driver:
        store.stuck = {"get"}
        driver.submit("loads", stored)
        driver.until(lambda: driver.core.stats().requests_loading == 1)
        for number in range(3):
            driver.submit(f"r{number}", prompt(f"p{number}", 1), max_tokens=100)
        driver.until(lambda: driver.core.stats().preemptions > 0)
        assert driver.counts["loads_running"] == 1
        store.free()
        driver.run()
        assert driver.reuse["loads"].stored_tokens == 3 * B


def test_a_request_that_is_loaded_and_must_wait_for_room_remembers_where_its_tokens_came_from():
    stored = prompt("stored", 3)
    store = store_with(stored)
    with Driver(store, num_blocks=8) as driver:
        driver.submit("running", prompt("other", 2), max_tokens=180)  # takes five blocks in the end
        driver.until(lambda: "running" in driver.reuse)
        driver.submit("loaded", stored + prompt("more", 2))  # three blocks of the store's and three of its own
        while driver.counts["blocks_loaded"] < 3 or driver.core.stats().requests_loading:
            driver.core.manager.wait(0.01)  # the movers come first
            driver.step()
        assert driver.core.stats().requests_waiting == 1
        driver.run()
        assert driver.finished == ["running", "loaded"]
        assert driver.reuse["loaded"].stored_tokens == 3 * B


@pytest.mark.parametrize("layer", range(4))
def test_layers_come_in_waves_and_each_is_checked(monkeypatch, layer):
    groups, make = layered_groups(4, head_dim=8), layered_executor(10**6)
    size = frame_bytes(groups[0].layout)
    monkeypatch.setattr(transfer, "WAVE_BYTES", 2 * size)
    store = GuardedStore()
    tokens, _ = answer(groups, make, store)
    store.calls.clear()
    again, stats = answer(groups, make, store)
    assert (again, stats.prefix_stored_tokens) == (tokens, 3 * B)
    assert store.calls["get"] == 2 + len(keys_in(store)), "two waves, and the headers of all objects when it starts"
    place = payload_start(groups[0].layout) + layer * size
    for key, data in contents(store).items():
        replace(store, key, flip_bit(data, place))
    again, stats = answer(groups, make, store)
    assert (again, stats.prefix_stored_tokens, stats.tier["loads_corrupt"]) == (tokens, 0, 3)


def test_a_block_of_another_group_is_found_out():
    groups, make = null_groups((None, None)), null_executor(10**6)
    store = MemoryStore()
    tokens, _ = answer(groups, make, store)
    found = contents(store)
    for key in found:
        replace(store, key, found[key._replace(group=1 - key.group)])
    again, stats = answer(groups, make, store)
    assert (again, stats.prefix_stored_tokens, stats.tier["loads_corrupt"]) == (tokens, 0, 6)


def answer(groups, make, store):
    """The tokens of one request over a new engine, and what the engine counted."""
    core = make_core(Setup(), groups, make, store)
    core.submit(submit("r", prompt("deep", 3), max_tokens=20))
    tokens, stats = run_to_end(core), core.stats()
    core.close()
    return tokens, stats


def contents(store):
    return {entry.key: get(store, entry.key, entry.bytes) for entry in store.list()}


def replace(store, key, data):
    store.delete([key], inf)
    store.put([Write(key, (memoryview(data),))], inf)


# -- writes ------------------------------------------------------------------------------------------------------------------


def test_blocks_are_written_when_they_were_met_often_enough():
    store = GuardedStore()
    token_ids = prompt("p", 3)
    with Driver(store, policy=WritePolicy(touches=2)) as driver:
        driver.ask("one", token_ids)
        driver.written()
        assert not keys_in(store)
        driver.ask("two", [*token_ids[: 2 * B], *prompt("else", 2)])
        driver.written()
        assert len(keys_in(store)) == 2


def test_a_request_that_waits_for_room_is_met_once():
    store = GuardedStore()
    with Driver(store, num_blocks=8, policy=WritePolicy(touches=3)) as driver:
        shared = prompt("shared", 2)
        driver.ask("first", shared)
        driver.submit("running", prompt("other", 2), max_tokens=50)
        driver.until(lambda: "running" in driver.reuse)
        driver.submit("waits", shared + prompt("more", 3))
        driver.run()
        assert driver.finished[-2:] == ["running", "waits"]
        driver.written()
        assert not keys_in(store)


def test_short_contexts_are_not_written_and_long_ones_from_their_start():
    store = GuardedStore()
    with Driver(store, policy=WritePolicy(min_tokens=3 * B)) as driver:
        driver.ask("short", prompt("short", 2))
        driver.ask("long", prompt("long", 1), max_tokens=2 * B + 10)
        driver.written()
        assert len(keys_in(store)) == 3


def test_blocks_that_lose_their_slots_before_they_are_written_are_counted():
    store = GuardedStore()
    with Driver(store, num_blocks=6) as driver:
        store.stuck = {"put"}
        for number in range(4):
            driver.ask(f"r{number}", prompt(f"p{number}", 4))
        dropped = driver.counts["blocks_dropped"]
        assert dropped >= 16 - 6
        store.free()
        driver.written()
        assert driver.counts["blocks_dropped"] == dropped
        assert len(keys_in(store)) == driver.counts["blocks_written"] == 16 - dropped


def test_what_waits_to_be_written_is_written_at_the_end():
    store = GuardedStore()
    driver = Driver(store, num_blocks=64)
    store.stuck = {"put"}
    for number in range(10):
        driver.ask(f"r{number}", prompt(f"p{number}", 4))
    store.free()
    driver.core.close()
    assert len(keys_in(store)) == 40


def test_a_block_that_is_stored_already_is_not_written_again():
    token_ids = prompt("p", 4)
    store = store_with(token_ids)
    store.plan = lambda method, key: Fault.MISSING if method == "get" else None
    with Driver(store) as driver:
        store.calls.clear()
        assert driver.ask("computes it", token_ids).computed_tokens == len(token_ids)
        driver.written()
        assert store.calls["put"] == 0
        assert driver.counts["blocks_written"] == 0


def test_the_store_is_told_what_is_used_and_keeps_it():
    store = GuardedStore(MemoryStore(4 * OBJECT_BYTES))
    with Driver(store) as driver:
        for number, name in enumerate(["used", "unused", "used"]):
            driver.ask(f"r{number}", prompt(name, 2))
            driver.written()
        driver.until(lambda: store.calls["touch"] > 0)
        driver.ask("new", prompt("new", 2))
        driver.written()
        driver.core.forget()
        assert driver.ask("used after all", prompt("used", 2)).stored_tokens == 2 * B
        assert driver.ask("unused after all", prompt("unused", 2)).stored_tokens == 0
