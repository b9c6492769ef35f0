"""Objects as files: names, modes, foreign things among them, and systems that do not do as they are told."""

import errno
import fcntl
import os
import shutil
import stat
from math import inf

import pytest

from tests.stores.children import (
    VERSION,
    in_child,
    open_store,
    open_the_root_of_another,
    open_where_nothing_may_be_made,
    put_with_a_limit,
    use_a_folder_that_became_read_only,
)
from tests.support.stores import SPACE, content_of, get, key_of, keys_in, put, write_of
from tiercel.stores import Read, Result, Status, Usage
from tiercel.stores.file.temporary import collect
from tiercel.types import BlockHash, BlockKey

OK, MISSING, FULL, FAILED = Status.OK, Status.MISSING, Status.FULL, Status.FAILED


@pytest.fixture
def root(tmp_path):
    return tmp_path / "some" / "where"


@pytest.fixture
def store(root):
    return open_store(root)


def litter(root):
    return list((root / VERSION).glob("tmp/*"))


def path_of(root, key):
    name = f"{key.block_hash.hex()}-g{key.group}-h{key.heads[0]}+{key.heads[1]}.kv"
    return root / VERSION / key.namespace / key.block_hash.hex()[:2] / name


# -- names and modes ----------------------------------------------------------------------------------------------------------


def test_an_object_is_a_file_of_its_bytes(store, root):
    key = key_of(1, group=3, heads=(8, 16))
    put(store, key)
    store.describe(SPACE, b"what it is")
    assert path_of(root, key).read_bytes() == content_of(key, 100)
    assert (root / VERSION / SPACE / "description").read_bytes() == b"what it is"
    assert litter(root) == []


@pytest.mark.parametrize("umask", [0, 0o777])
def test_nobody_else_may_look(root, umask):
    before = os.umask(umask)
    try:
        store = open_store(root, capacity=1000)
        store.describe(SPACE, b"it")
        put(store, *(key_of(n) for n in range(12)))
    finally:
        os.umask(before)
    paths = [root.parent, root, *root.rglob("*")]
    assert {VERSION, "tmp", "usage.log", "sweep.lock", "description", SPACE} <= {path.name for path in paths}
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    "key",
    [
        key_of(1, namespace="../../../../etc/passwd"),
        key_of(1, namespace=SPACE.upper()),
        key_of(1, namespace=SPACE + "\n"),
        key_of(1, namespace=""),
        key_of(1, group=-1),
        key_of(1, heads=(0, -8)),
        BlockKey(SPACE, BlockHash(b"short"), 0, (0, 8)),
    ],
)
def test_no_key_leads_elsewhere(store, root, key):
    for use in (lambda: store.exists([key], inf), lambda: get(store, key), lambda: put(store, key), lambda: store.touch([key])):
        with pytest.raises(ValueError, match="no file can be named after"):
            use()
    assert list(store.list("..")) == []
    assert store.clear("..") == 0
    with pytest.raises(ValueError, match="not the id of a namespace"):
        store.describe("..", b"")


# -- after a restart ----------------------------------------------------------------------------------------------------------


def test_another_start_finds_everything_and_the_order_of_use(store, root):
    keys = [key_of(n) for n in range(10)]
    put(store, *keys)
    store.touch(keys[:5])
    store.describe(SPACE, b"it")
    store.close()
    second = open_store(root, capacity=1000)
    assert keys_in(second) == set(keys)
    assert second.namespaces() == {SPACE: b"it"}
    assert [get(second, key) for key in keys] == [content_of(key, 100) for key in keys]
    put(second, key_of(10), size=200)
    assert keys_in(second) == {*keys[:5], keys[8], keys[9], key_of(10)}


# -- foreign things -----------------------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_passed_over_and_stays(store, root):
    put(store, key_of(1), key_of(2))
    version, space, shelf = root / VERSION, root / VERSION / SPACE, path_of(root, key_of(1)).parent
    foreign = [root / "notes", version / "notes", space / "notes", shelf / "notes", version / "tmp" / "notes"]
    foreign += [shelf / f"{'a' * 63}-g0-h0+8.kv", shelf / (path_of(root, key_of(1)).name + "~")]
    foreign += [space / f"{key_of(9).block_hash.hex()}-g0-h0+8.kv"]
    wrong_shelf = next(n for n in range(10, 99) if path_of(root, key_of(n)).parent != shelf)
    foreign += [shelf / path_of(root, key_of(wrong_shelf)).name]
    for path in foreign:
        path.write_text("mine")
    (version / ("f" * 32)).write_text("mine")
    (root / "v01").mkdir()
    assert keys_in(store) == {key_of(1), key_of(2)}
    assert store.usage() == Usage(2, 200, 2**30)
    store.check_integrity()
    assert store.clear() == 2
    assert [path.read_text() for path in foreign] == ["mine"] * len(foreign)
    assert (root / "v01").exists()


def test_links_and_pipes_are_no_objects(store, root, tmp_path):
    put(store, key_of(1))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link, pipe, folder = (path_of(root, key_of(n)) for n in (2, 3, 4))
    for path in (link, pipe, folder):
        path.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    os.mkfifo(pipe)
    folder.mkdir()
    (root / VERSION / ("e" * 32)).symlink_to(root / VERSION / SPACE)
    assert keys_in(store) == {key_of(1)}
    assert store.exists([key_of(n) for n in (2, 3, 4)], inf) == [False] * 3
    assert get(store, key_of(2)) is None
    for key in (key_of(3), key_of(4)):
        [result] = store.get([Read(key, 0, [memoryview(bytearray(5))])], inf)
        assert result.status is FAILED
    assert store.delete([key_of(n) for n in (2, 3, 4)], inf) == [Result(MISSING)] * 3
    assert put(store, key_of(2), key_of(3), key_of(4)) == [OK, OK, FAILED]
    assert get(store, key_of(2)) == content_of(key_of(2), 100)
    assert secret.read_text() == "secret"


# -- a system that does less than it is asked ---------------------------------------------------------------------------------


def test_short_reads_and_writes_are_continued(store, root, monkeypatch):
    writev, preadv = os.writev, os.preadv
    monkeypatch.setattr(os, "writev", lambda fd, buffers: writev(fd, [buffers[0][:7]]))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:5]], offset))
    assert put(store, key_of(1)) == [OK]
    assert path_of(root, key_of(1)).read_bytes() == content_of(key_of(1), 100)
    first, second = bytearray(33), bytearray(90)
    reads = [Read(key_of(1), 1, [memoryview(first), memoryview(second)])]
    assert store.get(reads, inf) == [Result(OK, 99)]
    assert first + second[:66] == content_of(key_of(1), 100)[1:]


def test_a_file_that_is_collected_before_it_is_locked_is_made_again(store, root, monkeypatch):
    flock = fcntl.flock

    def late(fd, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        collect(root / VERSION / "tmp")
        flock(fd, operation)

    put(store, key_of(1))
    monkeypatch.setattr(fcntl, "flock", late)
    assert put(store, key_of(2)) == [OK]
    assert get(store, key_of(2)) == content_of(key_of(2), 100)


@pytest.mark.parametrize(
    ("call", "error", "status"),
    [
        ("writev", errno.ENOSPC, FULL),
        ("writev", errno.EDQUOT, FULL),
        ("writev", errno.EFBIG, FULL),
        ("writev", errno.EIO, FAILED),
        ("dup", errno.EDQUOT, FULL),  # a network file system tells on closing
        ("rename", errno.EACCES, FAILED),
        ("rename", errno.ENOENT, FAILED),
        ("fchmod", errno.EPERM, FAILED),
        ("statvfs", errno.EIO, FAILED),
        ("scandir", errno.EACCES, FAILED),
    ],
)
def test_a_put_that_fails_leaves_nothing_behind(root, monkeypatch, call, error, status):
    store = open_store(root, capacity=150)

    def fail(*_):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        assert store.put([write_of(key_of(1))], inf) == [Result(status, 0, os.strerror(error))]
    assert keys_in(store) == set()
    assert litter(root) == []
    assert put(store, key_of(1)) == [OK]  # no room is held for what did not come
    store.check_integrity()


def test_a_listing_that_fails_is_made_up_for(root, monkeypatch):
    put(open_store(root), *(key_of(n) for n in range(10)))
    store = open_store(root, capacity=1000)

    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", fail)
        assert put(store, key_of(10)) == [FAILED]
    assert put(store, key_of(10)) == [OK]
    assert store.usage().bytes <= 1000


def test_no_file_stays_open(store):
    before = os.listdir("/dev/fd")
    put(store, key_of(1), key_of(2), key_of(1))
    get(store, key_of(1))
    store.describe(SPACE, b"it")
    store.clear()
    assert os.listdir("/dev/fd") == before


def test_reading_that_fails_says_why(store, monkeypatch):
    put(store, key_of(1))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", fail)
        [result] = store.get([Read(key_of(1), 0, [memoryview(bytearray(1))])], inf)
    assert result == Result(FAILED, 0, "Input/output error")
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", fail)
        [result] = store.get([Read(key_of(1), 0, [memoryview(bytearray(1))])], inf)
    assert result == Result(FAILED, 0, "Input/output error")


def test_a_file_that_may_not_grow_is_a_full_store(root):
    results = in_child(put_with_a_limit, root, 50_000)
    assert results == [Result(OK, 10), Result(FULL, 0, os.strerror(errno.EFBIG)), Result(OK, 1000)]
    store = open_store(root)
    assert keys_in(store) == {key_of(10), key_of(1000)}
    assert litter(root) == []


# -- the root -----------------------------------------------------------------------------------------------------------------


def test_a_folder_that_became_read_only_is_still_read():
    read, new, old, deleted = in_child(use_a_folder_that_became_read_only)
    assert read == Result(OK, 100)
    assert (new.status, new.detail) == (FAILED, "Permission denied")
    assert old == Result(OK)
    assert (deleted.status, deleted.detail) == (FAILED, "Permission denied")


def test_a_root_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(OSError, match="file is not a folder"):
            open_store(path)
    with pytest.raises(PermissionError, match="Permission denied"):
        in_child(open_where_nothing_may_be_made)


def test_a_root_where_others_may_write_is_refused(tmp_path):
    for mode in (0o777, 0o1777, 0o770):
        tmp_path.chmod(mode)
        with pytest.raises(PermissionError, match=f"other users may write to {tmp_path}; .* chmod go-w {tmp_path}"):
            open_store(tmp_path)
    open_store(tmp_path / "inside")
    tmp_path.chmod(0o755)
    open_store(tmp_path)


def test_a_root_of_another_user_is_refused():
    with pytest.raises(PermissionError, match=r"/ belongs to another user \(uid 0\)"):
        in_child(open_the_root_of_another)


def test_a_root_that_vanishes_is_empty_and_made_anew(store, root):
    put(store, key_of(1), key_of(2))
    shutil.rmtree(root.parent)
    assert get(store, key_of(1)) is None
    assert store.exists([key_of(1)], inf) == [False]
    assert store.delete([key_of(1)], inf) == [Result(MISSING)]
    assert list(store.list()) == []
    assert store.namespaces() == {}
    assert store.usage() == Usage(0, 0, 2**30)
    store.touch([key_of(1)])
    assert put(store, key_of(3)) == [OK]
    assert keys_in(store) == {key_of(3)}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    store.check_integrity()


def test_a_root_that_becomes_a_file_fails_without_raising(store, root):
    put(store, key_of(1))
    shutil.rmtree(root)
    root.write_text("")
    assert get(store, key_of(1)) is None
    assert store.exists([key_of(1)], inf) == [False]
    assert store.delete([key_of(1)], inf) == [Result(MISSING)]
    store.touch([key_of(1)])
    [result] = store.put([write_of(key_of(1))], inf)
    assert result.status is FAILED
    assert "not a folder" in result.detail
