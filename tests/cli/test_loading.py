"""Loading without looking for garbage."""

import gc
from collections.abc import Iterator

import pytest

from tiercel.cli.loading import loading


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_garbage_is_not_looked_for_meanwhile_and_what_was_loaded_is_left_out_later() -> None:
    gc.unfreeze()
    with loading():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_an_error_ends_it_too() -> None:
    with pytest.raises(KeyError), loading():
        raise KeyError
    assert gc.isenabled()


def test_who_does_without_goes_on_without() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()
