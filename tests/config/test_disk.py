"""What `kv_disk` may say, and the plan it stands for."""

import pwd
from pathlib import Path

import pytest

from tiercel.config import DiskPlan, EngineConfig, checked, resolve_disk
from tiercel.config.disk import DEFAULT_CAPACITY
from tiercel.types import InvalidInput


def plan(text: str) -> DiskPlan | None:
    """Through the trip that settings make to the engine process."""
    here = checked(EngineConfig, {"kv_disk": text, "kv_disk_free": "1GiB"})
    there = checked(EngineConfig, here.model_dump(mode="json"))
    assert here == there
    return resolve_disk(there)


@pytest.mark.parametrize(
    ("text", "path", "capacity"),
    [
        ("/var/kv", "/var/kv", DEFAULT_CAPACITY),
        ("/var/kv:20GiB", "/var/kv", 20 << 30),
        ("/var/kv:1.5M", "/var/kv", 1_500_000),
        ("/var/a:b", "/var/a:b", DEFAULT_CAPACITY),
        ("/var/a:b:4096", "/var/a:b", 4096),
        ("/var/a:2GiB/kv", "/var/a:2GiB/kv", DEFAULT_CAPACITY),
        ("/var/kv:auto", "/var/kv:auto", DEFAULT_CAPACITY),
        ("/var/kv:", "/var/kv:", DEFAULT_CAPACITY),
    ],
)
def test_a_folder_and_its_size(text: str, path: str, capacity: int) -> None:
    assert plan(text) == DiskPlan(Path(path), capacity, 1 << 30, explicit=True)


def test_folders_written_in_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    assert plan("~/kv:1GiB") == DiskPlan(Path("/home/somebody/kv"), 1 << 30, 1 << 30, explicit=True)
    assert plan("kv") == DiskPlan(tmp_path / "kv", DEFAULT_CAPACITY, 1 << 30, explicit=True)


def test_the_default_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERCEL_KV_DISK")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert resolve_disk(EngineConfig()) == DiskPlan(Path("/caches/tiercel/kv"), 20 << 30, 2 << 30, explicit=False)
    assert plan("auto:5GiB") == DiskPlan(Path("/caches/tiercel/kv"), 5 << 30, 1 << 30, explicit=False)


@pytest.mark.parametrize("ignored", [None, "", "relative/folder"])
def test_a_cache_folder_that_is_not_absolute_is_ignored(monkeypatch: pytest.MonkeyPatch, ignored: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    if ignored is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
    found = plan("auto")
    assert found is not None
    assert found.path == Path("/home/somebody/.cache/tiercel/kv")


def test_without_a_home_there_is_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert plan("auto") is None
    with pytest.raises(InvalidInput, match="kv_disk: cannot tell which folder '~/kv' is"):
        plan("~/kv")


def test_off() -> None:
    assert plan("off") is None


@pytest.mark.parametrize("text", ["", ":5GiB", "on", "True", "none", "20GiB", "1", "off:1GiB", "a\0b"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="write auto, off, a folder, or a folder and its size like") as refused:
        plan(text)
    assert refused.value.field == "kv_disk"


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="write off instead"):
        plan("/var/kv:0")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("kv_disk_free", "-1"),
        ("kv_disk_free", "some"),
        ("kv_disk_touches", 0),
        ("kv_disk_min_tokens", -1),
        ("kv_disk_rate", 0),
        ("kv_disk_rate", "fast"),
    ],
)
def test_bad_settings_are_named(field: str, bad: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(EngineConfig, {field: bad})
    assert refused.value.field == field


def test_settings_survive_the_trip_to_the_engine_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_KV_DISK", "/var/kv:1GiB")
    monkeypatch.setenv("TIERCEL_KV_DISK_RATE", "100MB")
    config = EngineConfig()
    assert (config.kv_disk, config.kv_disk_rate) == ("/var/kv:1GiB", 10**8)
    monkeypatch.delenv("TIERCEL_KV_DISK")
    assert checked(EngineConfig, config.model_dump(mode="json")) == config
    assert EngineConfig(kv_disk_rate="unlimited").kv_disk_rate == "unlimited"
