"""Stores that last as long as a command."""

from pathlib import Path

import pytest

from tiercel.cli.fresh_store import fresh_store
from tiercel.config import EngineConfig, resolve_disk
from tiercel.types import InvalidInput


def test_a_new_folder_inside_the_one_that_was_named(tmp_path: Path) -> None:
    kept = tmp_path / "kv" / "kept"
    kept.mkdir(parents=True)
    with fresh_store(EngineConfig(kv_disk=f"{kept.parent}:3MiB", kv_disk_touches=2)) as config:
        plan = resolve_disk(config)
        assert plan is not None
        assert (plan.path.parent, plan.capacity, config.kv_disk_touches) == (kept.parent, 3 << 20, 2)
        assert list(plan.path.iterdir()) == []
        assert plan.path.stat().st_mode & 0o777 == 0o700
        (plan.path / "object").touch()
    assert list(kept.parent.iterdir()) == [kept]


def test_else_in_the_users_cache_folder_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with fresh_store(EngineConfig(kv_disk="auto")) as config:
        plan = resolve_disk(config)
        assert plan is not None
        assert plan.path.parent == tmp_path / "tiercel"
        assert plan.path.name != "kv"
    assert list((tmp_path / "tiercel").iterdir()) == []


def test_without_a_home_in_the_systems_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.cli.fresh_store.resolve_disk", lambda config: None)
    monkeypatch.setattr("tiercel.cli.fresh_store.gettempdir", lambda: str(tmp_path))
    with fresh_store(EngineConfig(kv_disk="auto")) as config:
        assert Path(config.kv_disk).parent == tmp_path


def test_off_stays_off() -> None:
    with fresh_store(EngineConfig(kv_disk="off")) as config:
        assert config.kv_disk == "off"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InvalidInput, match="kv_disk: cannot make a folder in"),
        fresh_store(EngineConfig(kv_disk=str(tmp_path / "file" / "kv"))),
    ):
        pass
