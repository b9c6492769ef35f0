"""What every store must do, whatever it is made of."""

import threading
from math import inf
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.stores import OTHER_SPACE, SPACE, content_of, get, key_of, keys_in, put, write_of
from tiercel.stores import Entry, FileStore, MemoryStore, NullStore, Read, Result, Status, Store, Usage, Write, batch

OK, MISSING, FULL, LATE = Status.OK, Status.MISSING, Status.FULL, Status.LATE
PLENTY = 2**30
KINDS = ["memory", "file"]


def make(kind: str, folder: Path, capacity: int = PLENTY) -> Store:
    if kind == "memory":
        return MemoryStore(capacity)
    return FileStore(folder, capacity=capacity, free_floor=0)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, tmp_path):
    store = make(kind, tmp_path / "root")
    yield store
    store.check_integrity()
    store.close()


# -- get, put ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "sizes", "filled"),
    [
        (0, [100], 100),
        (0, [30, 0, 70], 100),
        (10, [1, 2, 3], 6),
        (90, [4, 20, 5], 10),
        (100, [7], 0),
        (5000, [7], 0),
        (0, [], 0),
        (0, [0], 0),
    ],
)
def test_a_range_is_read_into_buffers_in_order(store, offset, sizes, filled):
    key = key_of(1)
    put(store, key)
    buffers = [bytearray(b"\xee" * size) for size in sizes]
    assert store.get([Read(key, offset, [memoryview(b) for b in buffers])], inf) == [Result(OK, filled)]
    assert b"".join(buffers) == content_of(key, 100)[offset:].ljust(sum(sizes), b"\xee")[: sum(sizes)]


def test_buffers_may_be_many_and_of_any_shape(store):
    key, data = key_of(1), np.arange(3000, dtype=np.float32)
    rows = [memoryview(row) for row in data]
    assert store.put([Write(key, rows)], inf) == [Result(OK, data.nbytes)]
    back = np.zeros((1500, 2), np.float32)
    assert store.get([Read(key, 0, [memoryview(row) for row in back])], inf) == [Result(OK, data.nbytes)]
    assert back.ravel().tolist() == data.tolist()
    whole = np.zeros((2, 3), np.int32)
    assert store.get([Read(key, 4, [memoryview(whole)])], inf) == [Result(OK, 24)]
    assert whole.tobytes() == data[1:7].tobytes()
    nothing = memoryview(np.zeros((0, 4)))
    assert store.put([Write(key_of(2), [nothing, memoryview(b"ab"), nothing])], inf) == [Result(OK, 2)]
    assert store.get([Read(key_of(2), 0, [nothing, memoryview(whole), nothing])], inf) == [Result(OK, 2)]
    assert whole.tobytes()[:2] == b"ab"


def test_what_was_never_put_is_missing(store):
    put(store, key_of(1))
    near = [key_of(2), key_of(1, OTHER_SPACE), key_of(1, group=1), key_of(1, heads=(0, 4)), key_of(1, heads=(1, 8))]
    assert store.exists([*near, key_of(1)], inf) == [False] * 5 + [True]
    assert [get(store, key) for key in near] == [None] * 5
    assert store.delete(near, inf) == [Result(MISSING)] * 5


def test_keys_that_differ_in_any_part_are_different_objects(store):
    keys = [
        key_of(number, namespace, group, heads)
        for number in (1, 2)
        for namespace in (SPACE, OTHER_SPACE)
        for group in (0, 12)
        for heads in ((0, 1), (0, 11), (10, 1))
    ]
    assert put(store, *keys) == [OK] * len(keys)
    assert [get(store, key) for key in keys] == [content_of(key, 100) for key in keys]
    assert set(store.list()) == {Entry(key, 100) for key in keys}
    assert set(store.list(SPACE)) == {Entry(key, 100) for key in keys if key.namespace == SPACE}
    assert list(store.list("0" * 32)) == []


def test_empty_batches_are_no_matter(store):
    assert store.exists([], inf) == store.get([], inf) == store.put([], inf) == store.delete([], inf) == []
    store.touch([])
    assert store.usage() == Usage(0, 0, PLENTY)


def test_a_key_twice_in_a_batch_is_done_twice(store):
    one = key_of(1)
    assert store.put([write_of(one), write_of(one)], inf) == [Result(OK, 100), Result(OK)]
    buffers = [bytearray(100), bytearray(100)]
    assert store.get([Read(one, 0, [memoryview(b)]) for b in buffers], inf) == [Result(OK, 100)] * 2
    assert buffers == [content_of(one, 100)] * 2
    assert store.delete([one, one], inf) == [Result(OK), Result(MISSING)]
    assert get(store, one) is None


def test_an_object_of_no_bytes_is_an_object(store):
    assert put(store, key_of(1), size=0) == [OK]
    assert get(store, key_of(1)) == b""
    assert list(store.list()) == [Entry(key_of(1), 0)]


def test_what_was_deleted_can_be_put_again(store):
    put(store, key_of(1), key_of(2))
    assert store.delete([key_of(1)], inf) == [Result(OK)]
    assert store.exists([key_of(1), key_of(2)], inf) == [False, True]
    assert put(store, key_of(1)) == [OK]
    assert get(store, key_of(1)) == content_of(key_of(1), 100)


# -- deadlines -------------------------------------------------------------------------------------------------------------


def test_after_the_deadline_nothing_is_done(store):
    put(store, key_of(1))
    assert store.exists([key_of(1)], 0) == [False]
    assert store.get([Read(key_of(1), 0, [memoryview(bytearray(1))])], 0) == [Result(LATE)]
    assert store.put([write_of(key_of(2))], 0) == [Result(LATE)]
    assert store.delete([key_of(1)], 0) == [Result(LATE)]
    assert keys_in(store) == {key_of(1)}


def test_the_deadline_is_looked_at_before_every_key(store, monkeypatch):
    clock = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(batch, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert store.put([write_of(key_of(n)) for n in range(3)], 3.0) == [Result(OK, 100), Result(OK, 100), Result(LATE)]
    assert keys_in(store) == {key_of(0), key_of(1)}


# -- namespaces, clear, usage ------------------------------------------------------------------------------------------------


def test_the_first_description_of_a_namespace_stays(store):
    assert store.namespaces() == {}
    store.describe(SPACE, b"first")
    store.describe(SPACE, b"second")
    put(store, key_of(1), key_of(1, OTHER_SPACE))
    assert store.namespaces() == {SPACE: b"first", OTHER_SPACE: b""}
    store.delete([key_of(1), key_of(1, OTHER_SPACE)], inf)
    assert store.namespaces() == {SPACE: b"first"}


def test_clear_removes_one_namespace_or_all(store):
    keys = [key_of(n, space) for n in range(5) for space in (SPACE, OTHER_SPACE)]
    put(store, *keys)
    store.describe(SPACE, b"it")
    assert store.clear("0" * 32) == 0
    assert store.clear(SPACE) == 5
    assert keys_in(store) == {key_of(n, OTHER_SPACE) for n in range(5)}
    store.check_integrity()
    assert store.clear() == 5
    assert store.usage() == Usage(0, 0, PLENTY)
    assert store.clear() == 0
    assert store.namespaces() == {SPACE: b"it"}
    assert put(store, *keys) == [OK] * 10


def test_usage_counts_objects_and_bytes(store):
    put(store, key_of(1), size=10)
    put(store, key_of(2), size=500)
    put(store, key_of(2), size=500)
    assert store.usage() == Usage(2, 510, PLENTY)
    store.delete([key_of(1)], inf)
    assert store.usage() == Usage(1, 500, PLENTY)


# -- capacity ----------------------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_is_evicted_first(kind, tmp_path):
    store = make(kind, tmp_path, capacity=1000)
    keys = [key_of(n) for n in range(10)]
    put(store, *keys)
    assert len(keys_in(store)) == 10
    store.touch([keys[0]])
    put(store, keys[1])  # being there already, it is used
    store.touch([keys[3], key_of(99), keys[2]])
    assert put(store, key_of(10)) == [OK]
    order = [*keys[4:], keys[0], keys[1], keys[3], keys[2], key_of(10)]
    held = keys_in(store)
    assert held == set(order[-len(held) :])
    assert 8 <= len(held) <= 10
    assert store.usage().evicted == 11 - len(held)
    store.check_integrity()


def test_after_an_eviction_the_order_is_kept(kind, tmp_path):
    store = make(kind, tmp_path, capacity=1000)
    for number in range(100):
        assert put(store, key_of(number)) == [OK]
        assert store.usage().bytes <= 1000
        store.touch([key_of(0)])
    held = keys_in(store)
    assert held == {key_of(0), *(key_of(number) for number in range(101 - len(held), 100))}


def test_what_is_larger_than_the_store_does_not_fit(kind, tmp_path):
    store = make(kind, tmp_path, capacity=1000)
    put(store, key_of(1), key_of(2))
    result = store.put([write_of(key_of(3), 1001), write_of(key_of(4), 800)], inf)
    assert [r.status for r in result] == [FULL, OK]
    assert "1001 bytes are more than the capacity of 1000" in result[0].detail
    assert keys_in(store) == {key_of(1), key_of(2), key_of(4)}


def test_the_room_of_what_was_removed_is_used_again(kind, tmp_path):
    store = make(kind, tmp_path, capacity=1000)
    put(store, *(key_of(n) for n in range(10)))
    store.delete([key_of(n) for n in range(5)], inf)
    put(store, *(key_of(n) for n in range(20, 25)))
    assert store.usage() == Usage(10, 1000, 1000)
    store.clear()
    put(store, *(key_of(n) for n in range(10)))
    assert store.usage() == Usage(10, 1000, 1000)


# -- threads ----------------------------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_one_another(kind, tmp_path):
    store = make(kind, tmp_path, capacity=3000)
    keys = [key_of(n) for n in range(40)]
    errors = []

    def hammer(seed: int) -> None:
        random = Random(seed)
        try:
            for _ in range(60):
                some = random.sample(keys, 5)
                put(store, *some, size=200)
                assert all(get(store, key, 300) in (None, content_of(key, 200)) for key in some)
                store.touch(some[:2])
                store.exists(some, inf)
                store.delete(some[3:4], inf)
                if random.random() < 0.05:
                    store.clear()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    store.check_integrity()
    assert store.usage().bytes <= 3000
    fill_without_evicting(store, 3000)


def fill_without_evicting(store: Store, capacity: int) -> None:
    """Shows that no room is taken by objects that are not there: all of it can be filled."""
    evicted = store.usage().evicted
    for number in range(1000, 1000 + (capacity - store.usage().bytes) // 100):
        assert put(store, key_of(number)) == [OK]
    assert store.usage().evicted == evicted
    assert store.usage().bytes == capacity


# -- null ------------------------------------------------------------------------------------------------------------------


def test_null_takes_everything_and_keeps_nothing():
    store = NullStore()
    assert store.put([write_of(key_of(1))], inf) == [Result(OK, 100)]
    assert store.put([write_of(key_of(1))], 0) == [Result(LATE)]
    assert get(store, key_of(1)) is None
    assert store.exists([key_of(1)], inf) == [False]
    assert store.delete([key_of(1)], inf) == [Result(MISSING)]
    store.touch([key_of(1)])
    store.describe(SPACE, b"it")
    assert store.namespaces() == {}
    assert list(store.list()) == []
    assert store.clear() == 0
    assert store.usage() == Usage(0, 0, 0)
    store.check_integrity()
    store.close()
