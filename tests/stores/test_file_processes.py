"""Several real processes on one folder, and what they leave when they are killed."""

import time
from contextlib import ExitStack
from random import Random

import pytest

from tests.stores.children import (
    VERSION,
    child,
    clear_again_and_again,
    finish,
    open_store,
    stop_in_the_middle,
    use_at_random,
    write_for_ever,
)
from tests.support.stores import content_of, get, key_of, keys_in, put
from tiercel.stores import Status


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def litter(root):
    return list((root / VERSION).glob("tmp/*.tmp"))


def test_two_processes_share_one_folder(tmp_path):
    """The same keys and different ones, more than there is room for. A third, which looks on, keeps correct books."""
    onlooker = open_store(tmp_path, 100_000)
    put(onlooker, key_of(0), size=5000)
    with child(use_at_random, tmp_path, 100_000, 150, 1) as one, child(use_at_random, tmp_path, 100_000, 150, 2) as other:
        finish(one)
        finish(other)
    assert 0 < onlooker.usage().bytes <= 100_000 + 2 * 5000
    onlooker.check_integrity()
    assert all(get(onlooker, key, 6000) == content_of(key, 5000) for key in keys_in(onlooker))
    assert litter(tmp_path) == []


def test_one_process_clears_under_another(tmp_path):
    with child(use_at_random, tmp_path, 100_000, 150, 3) as user, child(clear_again_and_again, tmp_path, 100) as clearer:
        finish(user)
        finish(clearer)
    open_store(tmp_path, 100_000).clear()
    assert list(tmp_path.rglob("*.kv")) == []


@pytest.mark.parametrize("seed", range(12))
def test_a_writer_that_is_killed_leaves_only_whole_objects(tmp_path, seed):
    size, capacity = 200_000, 2_000_000
    with ExitStack() as stack:
        writers = [stack.enter_context(child(write_for_ever, tmp_path, capacity, size, seed + n)) for n in range(2)]
        wait_until(lambda: keys_in(open_store(tmp_path)))
        time.sleep(Random(seed).uniform(0, 0.05))  # at any point of its work
        writers[0].kill()
        writers[0].join()
        store = open_store(tmp_path, capacity)
        assert put(store, key_of(2000), size=size)[0] in (Status.OK, Status.FULL)  # the other writer goes on
        writers[1].kill()
        writers[1].join()
    store = open_store(tmp_path, capacity)
    assert put(store, key_of(2001), size=size) == [Status.OK]
    assert litter(tmp_path) == []
    assert store.usage().bytes <= capacity
    assert key_of(2001) in keys_in(store)
    for key in keys_in(store):
        assert get(store, key, size + 1) == content_of(key, size)
    store.check_integrity()


def test_half_an_object_is_never_seen_and_goes_with_its_writer(tmp_path):
    store = open_store(tmp_path)
    with child(stop_in_the_middle, tmp_path, 1000) as writer:
        wait_until(lambda: [path.stat().st_size for path in litter(tmp_path)] == [500])
        assert keys_in(store) == set()
        assert get(store, key_of(1)) is None
        assert put(store, key_of(2)) == [Status.OK]  # its first look around
        assert len(litter(tmp_path)) == 1  # not litter while its writer lives
        writer.kill()
        writer.join()
    store = open_store(tmp_path)
    assert put(store, key_of(3)) == [Status.OK]
    assert litter(tmp_path) == []
    assert keys_in(store) == {key_of(2), key_of(3)}
    assert put(store, key_of(1), size=1000) == [Status.OK]
