"""A file store on a disk that is really full: a small tmpfs, mounted where only the test's own processes see it."""

import os
import subprocess
import sys
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest

from tests.support.stores import content_of, get, key_of, keys_in, put, write_of
from tiercel.stores import FileStore, Status

ROOT = Path(__file__).parents[1]
DISK = 8 * 2**20  # bytes
SIZE = 300_000
MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_a_small_disk(scenario, folder, options):
    """Runs a function of this file in a process that sees a small disk at `folder`."""
    program = [sys.executable, "-m", "tests_real.test_full_disk", scenario.__name__, str(folder)]
    command = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", options, str(folder), *program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def open_store(folder, free_floor=0):
    return FileStore(folder / "kv", capacity=2**40, free_floor=free_floor)


def free(folder):
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize


def check(store, size=SIZE):
    """Every object is whole, and nothing else was left behind."""
    assert all(get(store, key, size + 1) == content_of(key, size) for key in keys_in(store))
    assert list((store._folder / "tmp").iterdir()) == []
    store.check_integrity()


def fill(folder):
    """Takes all room there is for a file of another."""
    with (folder / "others").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 2**16)


def rotates(folder):
    """A store that is allowed more than the disk has lives with what the disk has."""
    store = open_store(folder)
    for number in range(60):
        assert put(store, key_of(number), size=SIZE) == [Status.OK]
        check(store)
    held = keys_in(store)
    assert held == {key_of(number) for number in range(60 - len(held), 60)}
    assert len(held) > 15


def gives_way(folder):
    """What the floor asks for stays free."""
    store = open_store(folder, free_floor=DISK // 2)
    for number in range(40):
        assert put(store, key_of(number), size=SIZE) == [Status.OK]
        assert free(folder) > DISK // 2 - 100_000  # the log and the folders take some
    check(store)


def is_filled_by_others(folder):
    """What others leave is little; it is read on, and room that is made is used."""
    store = open_store(folder)
    keys = [key_of(number) for number in range(5)]
    put(store, *keys, size=SIZE)
    fill(folder)
    assert free(folder) == 0
    [result] = store.put([write_of(key_of(10), 5 * SIZE + 100_000)], inf)
    assert result.status is Status.FULL
    assert "0 are free on the file system" in result.detail
    store.touch(keys[:1])  # there is no room to write that down
    check(store)
    assert keys_in(store) == set(keys)
    assert put(store, key_of(11), size=SIZE) == [Status.OK]  # in the place of old ones
    check(store)
    assert key_of(11) in keys_in(store)
    (folder / "others").unlink()
    assert put(store, *(key_of(number) for number in range(20, 30)), size=SIZE) == [Status.OK] * 10
    check(store)


def tells_the_wrong_numbers(folder):
    """A disk that says it has room, and has none, as with a quota: FULL, and then room is made."""
    os.statvfs = lambda path: os.statvfs_result((4096, 4096, 2**30, 2**30, 2**30, 2**20, 2**20, 2**20, 0, 255))
    store = open_store(folder)
    statuses = [status for number in range(60) for status in put(store, key_of(number), size=SIZE)]
    check(store)
    assert set(statuses) == {Status.OK, Status.FULL}
    full = [place for place, status in enumerate(statuses) if status is Status.FULL]
    assert all(statuses[place + 1] is Status.OK for place in full if place < 59)
    fill(folder)
    for number in range(100, 130):
        assert put(store, key_of(number), size=DISK) == [Status.FULL]
        store.touch([key_of(59)])
    check(store)
    (folder / "others").unlink()
    assert put(store, key_of(200), size=SIZE) == [Status.OK]
    check(store)


def runs_out_of_inodes(folder):
    """No room for one more file, while there is room for bytes."""
    store = open_store(folder)
    statuses = [status for number in range(300) for status in put(store, key_of(number), size=100)]
    assert set(statuses) == {Status.OK, Status.FULL}
    assert statuses.count(Status.OK) > 150
    check(store, 100)
    assert len(keys_in(store)) > 20


# -- the tests ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", [rotates, gives_way, is_filled_by_others, tells_the_wrong_numbers])
def test_a_disk_without_room(tmp_path, scenario):
    on_a_small_disk(scenario, tmp_path, f"size={DISK},mode=0700")


def test_a_disk_without_room_for_names(tmp_path):
    on_a_small_disk(runs_out_of_inodes, tmp_path, f"size={DISK},mode=0700,nr_inodes=120")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
