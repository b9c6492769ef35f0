"""Every reason why a prompt was not reused, each brought about for real."""

from dataclasses import replace

import pytest

from tests.support import engines
from tests.support.driver import Driver, GuardedStore, prompt, store_with
from tests.support.stores import Fault
from tiercel.kv import WritePolicy, retrieval
from tiercel.stores import MemoryStore
from tiercel.types import BLOCK_TOKENS, Miss, MissReason

B = BLOCK_TOKENS
WHOLE = prompt("p", 3)


def differs_at(position: int) -> list[int]:
    return [*WHOLE[:position], 5, *WHOLE[position + 1 :]]


def only(reason: MissReason, position: int, token: int | None = None) -> Miss:
    """A miss whose sentence for people is left aside."""
    return Miss(reason=reason, position=position, cached_token=token)


def miss_of(driver: Driver, name: str, token_ids: list[int]) -> Miss:
    reuse = driver.ask(name, token_ids)
    assert reuse.miss.detail, "people are told, too"
    assert reuse.prompt_tokens == len(token_ids)
    return only(reuse.miss.reason, reuse.miss.position, reuse.miss.cached_token)


def test_all_but_the_last_block_is_reused():
    with Driver(GuardedStore()) as driver:
        driver.ask("before", WHOLE)
        for count, position in ((len(WHOLE), 3 * B), (3 * B, 2 * B), (2 * B + 9, 2 * B), (9, 0)):
            assert miss_of(driver, f"{count} tokens", WHOLE[:count]) == only("partial_block", position)


def test_nothing_is_known():
    with Driver(GuardedStore()) as driver:
        assert miss_of(driver, "r", WHOLE) == only("first_seen", 0)
        assert miss_of(driver, "goes on", prompt("p", 5)) == only("first_seen", 3 * B)


@pytest.mark.parametrize("position", [3, B, B + 40, 3 * B - 1])
@pytest.mark.parametrize("stored", [True, False])
def test_another_token(position, stored):
    store = store_with(WHOLE) if stored else GuardedStore()
    with Driver(store) as driver:
        if not stored:
            driver.ask("before", WHOLE)
        assert miss_of(driver, "r", differs_at(position)) == only("differs", position, WHOLE[position])


def fill(driver: Driver) -> None:
    for number in range(3):
        driver.ask(f"filler {number}", prompt(f"filler {number}", 4))


def test_its_place_was_needed_on_the_device_and_in_the_store():
    store = store_with(WHOLE)
    with Driver(store, num_blocks=8) as driver:
        assert driver.ask("here", WHOLE).stored_tokens == 3 * B
        fill(driver)
        store.clear()
        assert miss_of(driver, "gone", WHOLE) == only("evicted", 0)


def test_its_place_was_needed_in_the_store_between_look_up_and_load():
    store = store_with(WHOLE)
    with Driver(store) as driver:
        store.plan = lambda method, key: Fault.MISSING if method == "get" else None
        assert miss_of(driver, "r", WHOLE) == only("evicted", 0)


def test_its_place_was_needed_before_it_was_written():
    with Driver(GuardedStore(), num_blocks=8, policy=WritePolicy(min_tokens=1000)) as driver:
        driver.ask("here", WHOLE)
        fill(driver)
        assert miss_of(driver, "gone", WHOLE) == only("not_written", 0)


@pytest.mark.parametrize("field", ["weights", "network", "numerics"])
def test_another_namespace_of_the_same_tenant_has_it(monkeypatch, field):
    store = store_with(WHOLE)
    monkeypatch.setattr(engines, "NAMESPACE", replace(engines.NAMESPACE, **{field: "other"}))
    with Driver(store) as driver:
        driver.ask("something else", prompt("else", 2))
        reuse = driver.ask("r", WHOLE)
        assert (reuse.miss.reason, reuse.miss.position) == ("other_namespace", 0)
        assert "other" in reuse.miss.detail


def test_what_another_tenant_has_is_not_told(monkeypatch):
    store = store_with(WHOLE)
    monkeypatch.setattr(engines, "NAMESPACE", replace(engines.NAMESPACE, weights="other", tenant="other"))
    with Driver(store) as driver:
        assert miss_of(driver, "r", WHOLE) == only("first_seen", 0)


def test_what_a_request_with_another_salt_has_is_not_told():
    with Driver(store_with(WHOLE)) as driver:
        driver.submit("r", WHOLE, salt="somebody")
        driver.run()
        assert driver.reuse["r"].miss.reason == "first_seen"


def test_computing_is_faster():
    known = prompt("known", 3)
    with Driver(store_with(known, WHOLE), patient=False) as driver:
        driver.core.manager.computed(1_000_000, 1e-6)
        assert driver.ask("measures", known).stored_tokens == 3 * B
        assert miss_of(driver, "r", WHOLE) == only("slower_to_load", 0)


def test_who_waits_for_room_is_loaded_once_there_is_room():
    with Driver(store_with(WHOLE), num_blocks=6) as driver:
        driver.submit("running", prompt("other", 4), max_tokens=40)
        driver.until(lambda: "running" in driver.reuse)
        assert driver.ask("r", WHOLE).stored_tokens == 3 * B
        assert driver.finished == ["running", "r"]


@pytest.mark.parametrize(
    ("fault", "reason"), [(Fault.FLIP, "corrupt"), (Fault.LATE, "timed_out"), (Fault.ERROR, "store_failed")]
)
def test_one_block_does_not_come(fault, reason):
    """What comes before it is reused all the same."""
    store = store_with(WHOLE)
    with Driver(store) as driver:
        chain = driver.core.manager.new_chain()
        chain.extend(WHOLE)
        store.plan = lambda method, key: fault if method == "get" and key.block_hash == chain.links[1] else None
        assert miss_of(driver, "r", WHOLE) == only(reason, B)


def test_the_store_does_not_answer(monkeypatch):
    monkeypatch.setattr(retrieval, "_LOOK_UP_SECONDS", 0.0)
    store = store_with(WHOLE)
    with Driver(store) as driver:
        store.stuck = {"exists"}
        assert miss_of(driver, "r", WHOLE) == only("timed_out", 0)


def test_the_store_answers_in_part(monkeypatch):
    """What it found before its time was up is loaded."""
    monkeypatch.setattr(retrieval, "_LOOK_UP_SECONDS", -0.1)
    store = store_with(WHOLE)
    with Driver(store) as driver:
        store.exists = lambda keys, deadline: [number < 2 for number in range(len(keys))]
        reuse = driver.ask("r", WHOLE)
        assert (reuse.stored_tokens, reuse.miss.reason, reuse.miss.position) == (2 * B, "timed_out", 2 * B)


def test_the_store_answers_with_an_error():
    store = GuardedStore(MemoryStore())
    with Driver(store) as driver:
        store.exists = raise_error
        assert miss_of(driver, "r", WHOLE) == only("store_failed", 0)


def raise_error(keys, deadline):
    raise OSError("Input/output error")


def test_caching_is_off():
    with Driver(GuardedStore(), prefix_caching=False) as driver:
        driver.ask("before", WHOLE)
        assert miss_of(driver, "r", WHOLE) == only("off", 0)
