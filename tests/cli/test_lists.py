"""Several values in one option."""

import pytest

from tiercel.cli.lists import names, numbers
from tiercel.types import InvalidInput


def test_each_once_and_in_order() -> None:
    assert numbers("requests", "64,1,64") == [64, 1]
    assert names("work", "b,a,b", "abc") == ["b", "a"]


@pytest.mark.parametrize("text", ["", "1,", "0", "-3", "1.5", "many"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(InvalidInput, match="requests: must be numbers above 0"):
        numbers("requests", text)


def test_no_names() -> None:
    with pytest.raises(InvalidInput, match="work: must be some of a, b, with commas; got 'a,c'"):
        names("work", "a,c", "ab")
