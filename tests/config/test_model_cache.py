"""What `model_cache` may say, and the folder it stands for."""

import warnings
from pathlib import Path

import pytest

from tiercel.config import EngineConfig, checked, resolve_model_cache
from tiercel.types import InvalidInput


def folder(text: str) -> Path | None:
    """Through the trip that settings make to the engine process."""
    here = checked(EngineConfig, {"model_cache": text})
    there = checked(EngineConfig, here.model_dump(mode="json"))
    assert here == there
    return resolve_model_cache(there)


def test_a_folder_as_people_write_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    assert folder("/var/models") == Path("/var/models")
    assert folder("~/models") == Path("/home/somebody/models")
    assert folder("models") == tmp_path / "models"


def test_the_default_lies_beside_the_kept_kv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERCEL_MODEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert resolve_model_cache(EngineConfig()) == Path("/caches/tiercel/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert folder("auto") == Path("/home/somebody/.cache/tiercel/models")


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder("off") is None
    monkeypatch.setenv("TIERCEL_MODEL_CACHE", "off")
    assert resolve_model_cache(EngineConfig()) is None


def test_without_a_home_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "relative")
    assert folder("auto") is None


@pytest.mark.parametrize("text", ["", "on", "None", "FALSE", "a\0b"])
def test_words_that_name_no_folder_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="write auto, off, or a folder"):
        checked(EngineConfig, {"model_cache": text})


def test_an_unknown_user_is_named() -> None:
    with pytest.raises(InvalidInput, match="model_cache: cannot tell which folder '~nobody-of-that-name/x' is"):
        folder("~nobody-of-that-name/x")


def test_the_name_of_the_setting_draws_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Copy", (EngineConfig,), {})
