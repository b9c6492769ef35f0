"""The store that misbehaves on command does so: what is tested with it would prove nothing otherwise."""

import threading
from math import inf
from random import Random

import pytest

from tests.support.stores import SPACE, Fault, FaultyStore, at_random, content_of, get, key_of, keys_in, put, write_of
from tiercel.stores import MemoryStore, Read, Result, Status

KEY = key_of(1)


def faulty(fault, method):
    store = FaultyStore(MemoryStore(), lambda asked, key: fault if asked == method else None)
    put(store.inner, KEY)
    return store


def read(store, size=100):
    buffer = bytearray(size)
    return store.get([Read(KEY, 0, [memoryview(buffer)[:40], memoryview(buffer)[40:]])], inf)[0], bytes(buffer)


@pytest.mark.parametrize(
    ("fault", "status"), [(Fault.ERROR, Status.FAILED), (Fault.LATE, Status.LATE), (Fault.MISSING, Status.MISSING)]
)
def test_keys_fail_as_told(fault, status):
    assert read(faulty(fault, "get"))[0].status is status
    assert faulty(fault, "delete").delete([KEY], inf)[0].status is status
    assert faulty(fault, "exists").exists([KEY], inf) == [False]


def test_a_full_store_says_so_and_a_lying_one_does_not():
    for fault, status in ((Fault.FULL, Status.FULL), (Fault.ERROR, Status.FAILED), (Fault.LOST, Status.OK)):
        store = faulty(fault, "put")
        assert put(store, key_of(2)) == [status]
        assert keys_in(store) == {KEY}


def test_a_short_read_is_short_and_a_flipped_bit_is_one_bit():
    result, data = read(faulty(Fault.SHORT, "get"))
    assert result.bytes < 100
    result, data = read(faulty(Fault.FLIP, "get"))
    assert result == Result(Status.OK, 100)
    wrong = int.from_bytes(data) ^ int.from_bytes(content_of(KEY, 100))
    assert wrong.bit_count() == 1


def test_other_methods_raise():
    for method in ("list", "namespaces", "clear", "usage"):
        with pytest.raises(OSError, match="Input/output"):
            getattr(faulty(Fault.ERROR, method), method)()
    with pytest.raises(OSError, match="Input/output"):
        faulty(Fault.ERROR, "describe").describe(SPACE, b"")


def test_a_fault_that_a_method_cannot_have_is_none():
    assert read(faulty(Fault.FULL, "get")) == (Result(Status.OK, 100), content_of(KEY, 100))
    assert put(faulty(Fault.FLIP, "put"), key_of(2)) == [Status.OK]


def test_faults_come_as_often_as_asked_and_the_same_each_time():
    def statuses():
        store = FaultyStore(MemoryStore(), at_random(Random(7), {Fault.ERROR: 0.2, Fault.FULL: 0.1}))
        return put(store, *(key_of(n) for n in range(200)))

    first = statuses()
    assert first == statuses()
    assert 20 < first.count(Status.FAILED) < 60
    assert 5 < first.count(Status.FULL) < 40
    assert first.count(Status.OK) > 100


def test_calls_wait_at_the_gate():
    store = FaultyStore(MemoryStore())
    store.gate.clear()
    thread = threading.Thread(target=store.put, args=([write_of(KEY)], inf))
    thread.start()
    while not store.waiting:
        pass
    assert keys_in(store.inner) == set()
    store.gate.set()
    thread.join()
    assert get(store, KEY) == content_of(KEY, 100)
    assert store.waiting == 0
