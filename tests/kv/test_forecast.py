"""What is foretold is what a new engine then does, and says."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.engines import NAMESPACE, Setup, make_core, run_to_end, submit
from tests.support.objects import make_chain, put_all
from tiercel.kv import namespace_id
from tiercel.kv.forecast import Forecast, forecast
from tiercel.kv.namespaces import write_description
from tiercel.kv.objects import object_bytes
from tiercel.models.null import null_groups
from tiercel.stores import FileStore, MemoryStore, NullStore, Store
from tiercel.types import BLOCK_TOKENS, Reuse

B = BLOCK_TOKENS
KNOWN = [token % 50 for token in range(5 * B + 10)]
WINDOWS = [(None,), (None, 2 * B), (2 * B,)]


def ask(store: Store, prompt: list[int], *, windows: tuple[int | None, ...] = (None,), salt: str = "") -> Reuse:
    """What a new engine over `store` says of a prompt, once it has written what it computed."""
    core = make_core(Setup(windows=windows), store=store)
    core.submit(submit("r", prompt, salt=salt, max_tokens=1))
    while not (updates := core.step()):
        pass
    run_to_end(core)
    core.close()
    reuse = updates[0].reuse
    assert reuse is not None
    return reuse


def foretell(store: Store, prompt: list[int], *, windows: tuple[int | None, ...] = (None,), salt: str = "") -> Forecast:
    return forecast(store, NAMESPACE, null_groups(windows), prompt, salt)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize(
    ("prompt", "stored", "reason"),
    [
        (KNOWN, 5 * B, "partial_block"),
        ([*KNOWN, *[3] * B], 5 * B, "first_seen"),
        (KNOWN[: 2 * B], B, "partial_block"),
        (KNOWN[:9], 0, "partial_block"),
        ([*KNOWN[: 3 * B + 7], *[49] * 2 * B], 3 * B, "differs"),
    ],
)
def test_it_comes_true(prompt: list[int], stored: int, reason: str, windows: tuple[int | None, ...]) -> None:
    store = MemoryStore()
    ask(store, KNOWN, windows=windows)
    told = foretell(store, prompt, windows=windows).reuse
    assert (told.stored_tokens, told.device_tokens, told.miss.reason) == (stored, 0, reason)
    found = ask(store, prompt, windows=windows)
    assert found.device_tokens + found.stored_tokens == stored


def test_the_first_token_that_differs() -> None:
    store = MemoryStore()
    ask(store, KNOWN)
    miss = foretell(store, [*KNOWN[: B + 20], 7, *KNOWN[B + 21 :]]).reuse.miss
    assert (miss.position, miss.cached_token) == (B + 20, KNOWN[B + 20])


@pytest.mark.parametrize("windows", WINDOWS)
def test_the_bytes_are_those_that_are_read(windows: tuple[int | None, ...]) -> None:
    store = MemoryStore()
    ask(store, KNOWN, windows=windows)
    told = foretell(store, KNOWN, windows=windows)
    core = make_core(Setup(windows=windows), store=store)
    core.submit(submit("r", KNOWN, max_tokens=1))
    run_to_end(core)
    assert core.stats().tier["bytes_loaded"] == told.bytes > 0
    core.close()


def test_a_salt_has_blocks_of_its_own() -> None:
    store = MemoryStore()
    ask(store, KNOWN, salt="mine")
    assert foretell(store, KNOWN, salt="mine").reuse.stored_tokens == 5 * B
    for salt in ("", "theirs"):
        told = foretell(store, KNOWN, salt=salt).reuse
        assert (told.stored_tokens, told.miss.reason) == (0, "first_seen")


def test_blocks_of_the_same_tokens_in_another_namespace() -> None:
    store = MemoryStore()
    other = replace(NAMESPACE, weights="others", numerics="others")
    put_all(store, make_chain(KNOWN, other))
    store.describe(namespace_id(other), write_description(other))
    miss = foretell(store, KNOWN).reuse.miss
    assert miss.reason == "other_namespace"
    assert miss.detail == "320 tokens of it are stored, computed by other weights and other arithmetic"
    hidden = replace(NAMESPACE, weights="others", tenant="somebody else")
    put_all(store := MemoryStore(), make_chain(KNOWN, hidden))
    store.describe(namespace_id(hidden), write_description(hidden))
    assert foretell(store, KNOWN).reuse.miss.reason == "first_seen"


def test_a_block_that_has_gone_from_the_middle() -> None:
    store = MemoryStore()
    ask(store, KNOWN)
    third = next(e.key for e in store.list() if e.key.block_hash == make_chain(KNOWN, NAMESPACE)[2].key.block_hash)
    store.delete([third], float("inf"))
    told = foretell(store, KNOWN).reuse
    assert (told.stored_tokens, told.miss.reason, told.miss.position) == (2 * B, "evicted", 2 * B)


def test_damage_anywhere_ends_it_there(tmp_path: Path) -> None:
    def open_store() -> FileStore:
        return FileStore(tmp_path / "kv", capacity=1 << 30, free_floor=0)

    ask(open_store(), KNOWN)
    links = [block.key.block_hash for block in make_chain(KNOWN, NAMESPACE)]
    files = {link: next(tmp_path.rglob(f"*{link.hex()}*")) for link in links}
    whole = files[links[3]].read_bytes()
    for damage in (
        whole[:-1],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        bytes([whole[0] ^ 1]) + whole[1:],
        b"",
        files[links[2]].read_bytes(),
    ):
        files[links[3]].write_bytes(damage)
        told = foretell(open_store(), KNOWN).reuse
        assert (told.stored_tokens, told.miss.reason, told.miss.position) == (3 * B, "corrupt", 3 * B)
        assert told.miss.detail
    files[links[3]].write_bytes(whole)
    told = foretell(open_store(), KNOWN)
    assert (told.reuse.stored_tokens, told.bytes) == (5 * B, 5 * object_bytes(null_groups((None,))[0].layout))


def test_nothing_is_stored() -> None:
    told = foretell(NullStore(), KNOWN)
    assert (told.reuse.stored_tokens, told.reuse.miss.reason, told.bytes) == (0, "first_seen", 0)
