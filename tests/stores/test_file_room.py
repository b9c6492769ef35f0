"""Room in a file store: several stores on one root, file systems that fill up, older and newer versions beside ours."""

import fcntl
import os
from itertools import pairwise
from math import inf
from types import SimpleNamespace

import pytest

from tests.stores.children import NEWER, OLDER, VERSION, open_store
from tests.support.stores import SPACE, get, key_of, keys_in, put, write_of
from tiercel.stores import Status, Usage
from tiercel.stores.file import ledger

OK, FULL, FAILED = Status.OK, Status.FULL, Status.FAILED
KEYS = [key_of(n) for n in range(30)]


@pytest.fixture
def pair(tmp_path):
    """Two stores of 1000 bytes on one root, as two processes would have them."""
    stores = open_store(tmp_path / "root", 1000), open_store(tmp_path / "root", 1000)
    for store in stores:
        put(store, key_of(99))  # both have their books now
        store.clear()
    yield stores
    for store in stores:
        store.check_integrity()
        assert store.usage().bytes <= 1000


# -- several stores on one root -----------------------------------------------------------------------------------------------


def test_capacity_is_shared(pair):
    one, other = pair
    for number in range(0, 30, 2):
        assert put(one, KEYS[number]) == [OK]
        assert put(other, KEYS[number + 1]) == [OK]
        assert one.usage().bytes <= 1000
    held = keys_in(one)
    assert held == keys_in(other) == set(KEYS[-len(held) :])
    assert len(held) >= 8
    assert one.usage().evicted + other.usage().evicted == 30 - len(held)


def test_what_one_uses_the_other_keeps(pair):
    one, other = pair
    put(one, *KEYS[:10])
    other.touch(KEYS[:2])
    one.touch(KEYS[2:4])
    put(other, KEYS[10])
    assert keys_in(one) == {*KEYS[6:10], *KEYS[:4], KEYS[10]}


def test_what_one_removes_the_other_fills(pair):
    one, other = pair
    put(one, *KEYS[:10])
    other.delete(KEYS[:3], inf)
    put(one, *KEYS[10:13])
    assert one.usage() == Usage(10, 1000, 1000)
    other.clear()
    put(one, *KEYS[:10])
    assert one.usage() == Usage(10, 1000, 1000)


def test_while_another_makes_room_nobody_waits(pair, tmp_path):
    one, other = pair
    put(one, *KEYS[:10])
    with (tmp_path / "root" / VERSION / "sweep.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        [result] = other.put([write_of(KEYS[10])], inf)
        assert result.status is FULL
        assert "no room for 100 bytes: 1000 of 1000 are taken" in result.detail
    assert put(other, KEYS[10]) == [OK]


def test_objects_that_came_in_another_way_are_found_before_something_is_evicted(pair, tmp_path):
    one, other = pair
    put(one, *KEYS[:5])
    (tmp_path / "root" / VERSION / "usage.log").unlink()
    put(other, *KEYS[5:9])
    one.check_integrity()
    put(one, *KEYS[9:12])
    held = keys_in(one)
    assert set(KEYS[9:12]) <= held
    assert len(held) >= 8


# -- the log ------------------------------------------------------------------------------------------------------------------


def truncated(path):
    os.truncate(path, 0)


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def garbled(path):
    path.write_bytes(bytes(range(256)) * 50)


def flipped(path):
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 40):
        data[place] ^= 4
    path.write_bytes(data)


def torn(path):
    with path.open("ab") as file:
        file.write(b"12345678 + 100 half a li")


def removed(path):
    path.unlink()


def made_a_folder(path):
    path.unlink()
    path.mkdir()


def made_a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [truncated, halved, garbled, flipped, torn, removed, made_a_folder, made_a_link])
def test_a_damaged_log_costs_no_object_and_no_room(pair, tmp_path, damage):
    one, other = pair
    put(one, *KEYS[:9])
    other.check_integrity()  # it has read as far as this
    damage(tmp_path / "root" / VERSION / "usage.log")
    assert len(keys_in(one)) == 9
    one.check_integrity()
    for store, key in zip((one, other, one, other), KEYS[9:13], strict=True):
        assert put(store, key) == [OK]
        store.touch([key])
        assert store.usage().bytes <= 1000
        assert get(store, key) is not None


def test_the_log_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "_SMALL_LOG", 20_000)
    store = open_store(tmp_path, 1000)
    put(store, *KEYS[:10])
    sizes = []
    for number in range(500):
        store.touch([KEYS[number % 3], KEYS[5]])
        sizes.append((tmp_path / VERSION / "usage.log").stat().st_size)
    assert max(sizes) < 21_000
    assert sum(after < before for before, after in pairwise(sizes)) >= 3
    put(open_store(tmp_path, 1000), key_of(99), size=600)
    assert keys_in(store) == {KEYS[0], KEYS[1], KEYS[5], key_of(99)}


def test_a_log_that_is_large_for_a_reason_is_not_written_anew_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "_SMALL_LOG", 100)
    store = open_store(tmp_path)
    put(store, *KEYS)
    store.touch(KEYS)
    header = (tmp_path / VERSION / "usage.log").read_bytes()[:16]
    store.touch(KEYS[:5])
    assert (tmp_path / VERSION / "usage.log").read_bytes()[:16] == header


# -- the file system ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of 2000 bytes. others: what does not belong to the store."""
    disk = SimpleNamespace(others=0)

    def statvfs(path):
        ours = sum(file.stat().st_size for file in tmp_path.rglob("*.kv"))
        return SimpleNamespace(f_bavail=(2000 - ours - disk.others) // 10, f_frsize=10)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return disk


def test_the_floor_stays_free(tmp_path, disk):
    store = open_store(tmp_path, 5000, free_floor=1000)
    for key in KEYS:
        assert put(store, key) == [OK]
        assert store.usage().bytes <= 1000
    held = keys_in(store)
    assert held == set(KEYS[-len(held) :])
    store.check_integrity()


def test_others_who_fill_the_disk_take_the_store_s_place(tmp_path, disk):
    store = open_store(tmp_path, 1000, free_floor=1000)
    put(store, *KEYS[:10])
    disk.others = 500
    assert put(store, KEYS[10]) == [OK]
    assert keys_in(store) == set(KEYS[7:11])
    disk.others = 1950
    [result] = store.put([write_of(KEYS[11])], inf)
    assert result.status is FULL
    assert keys_in(store) == set(KEYS[7:11])  # to remove them would not be enough
    assert "50 are free on the file system, where 1000 must stay free" in result.detail
    disk.others = 0
    assert put(store, KEYS[11]) == [OK]


def test_a_disk_that_is_full_for_a_reason_of_its_own_gets_room_too(tmp_path, monkeypatch):
    """A quota is not to be seen in advance."""
    store = open_store(tmp_path, 10_000)
    writev = os.writev

    def within_quota(fd, buffers):
        if sum(file.stat().st_size for file in tmp_path.rglob("*.kv")) >= 1000 and len(buffers[0]) == 100:
            raise OSError(122, "Disk quota exceeded")
        return writev(fd, buffers)

    monkeypatch.setattr(os, "writev", within_quota)
    assert put(store, *KEYS[:10]) == [OK] * 10
    assert put(store, KEYS[10]) == [FULL]
    assert put(store, KEYS[11]) == [OK]
    assert get(store, KEYS[0]) is None


# -- other versions -----------------------------------------------------------------------------------------------------------


def make_version(root, name, numbers):
    """A folder as another version would leave it."""
    store = open_store(root / "elsewhere")
    store.describe(SPACE, b"it")
    put(store, *(key_of(number) for number in numbers))
    (root / "elsewhere" / VERSION / "tmp" / ("a" * 32 + ".tmp")).write_text("left by a crash")
    (root / "elsewhere" / VERSION).rename(root / name)
    (root / "elsewhere").rmdir()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    root.mkdir(0o700)
    make_version(root, OLDER, range(100, 103))
    make_version(root, NEWER, range(200, 202))
    return root


def test_other_versions_are_counted(root):
    store = open_store(root, 1000)
    put(store, *KEYS[:2])
    assert store.usage() == Usage(2, 200, 1000, old_objects=3, old_bytes=300, newer_bytes=200)
    assert keys_in(store) == set(KEYS[:2])
    assert store.namespaces() == {SPACE: b""}


def test_older_versions_go_first_and_newer_ones_stay(root):
    store = open_store(root, 1000)
    assert put(store, *KEYS[:5]) == [OK] * 5
    assert store.usage().old_objects == 3
    assert put(store, KEYS[5]) == [OK]
    assert keys_in(store) == set(KEYS[:6])
    assert store.usage() == Usage(6, 600, 1000, newer_bytes=200, evicted=3)
    assert not (root / OLDER).exists()
    assert put(store, *KEYS[6:9]) == [OK] * 3
    held = keys_in(store)
    assert held == set(KEYS[9 - len(held) : 9])
    assert store.usage().newer_bytes == 200
    store.check_integrity()


def test_older_versions_go_where_there_is_nothing_else_to_remove(root):
    store = open_store(root, 600)
    assert put(store, KEYS[0], size=200) == [OK]
    assert store.usage() == Usage(1, 200, 600, newer_bytes=200, evicted=3)


def test_what_others_left_in_an_older_version_stays(root):
    (root / OLDER / "notes").write_text("mine")
    (root / OLDER / SPACE / "notes").write_text("mine")
    store = open_store(root, 1000)
    put(store, KEYS[0])
    assert store.clear() == 4
    assert store.usage() == Usage(0, 0, 1000, newer_bytes=200)
    assert (root / OLDER / "notes").read_text() == (root / OLDER / SPACE / "notes").read_text() == "mine"
    assert not list((root / OLDER).rglob("*.kv"))


def test_one_namespace_is_cleared_in_the_current_version_only(root):
    store = open_store(root, 1000)
    put(store, KEYS[0])
    assert store.clear(SPACE) == 1
    assert store.usage().old_objects == 3
