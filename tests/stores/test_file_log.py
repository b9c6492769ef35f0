"""The log that processes keep together: nothing is lost to torn lines or to being written anew under a writer."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.stores.file import log
from tiercel.stores.file.log import PUT, USED, Line, UsageLog

LINES = [Line(PUT, "a/b/c.kv", 12), Line(USED, "a/b/c.kv"), Line(PUT, "d", 3)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "usage.log"


@pytest.fixture
def open_log(path):
    return lambda: UsageLog(path, path.parent / "tmp")


def test_readers_see_what_is_new(open_log):
    one, other = open_log(), open_log()
    assert one.read() == one.read() == (True, [])
    one.append(LINES[:2])
    assert one.read() == other.read() == (True, LINES[:2])
    other.append(LINES[2:])
    assert one.read() == other.read() == (False, LINES[2:])
    assert one.read() == (False, [])


def test_a_log_written_anew_is_fresh_to_the_others(open_log):
    one, other = open_log(), open_log()
    one.append(LINES)
    one.read(), other.read()
    one.replace(LINES[:1])
    assert one.read() == (False, [])
    assert other.read() == (True, LINES[:1])


def test_what_was_not_read_when_it_was_written_anew_is_carried_over(open_log):
    one, other = open_log(), open_log()
    one.append(LINES[:1])
    one.read()
    other.append(LINES[1:2])
    one.replace(LINES[:1])
    assert one.read() == (False, LINES[1:2])
    assert other.read() == (True, LINES[:2])


def test_a_line_added_just_before_the_log_is_replaced_is_carried_over(open_log, monkeypatch):
    one, other = open_log(), open_log()
    one.append(LINES[:1])
    one.read()

    def publish(file, target, publish=log.publish):
        monkeypatch.undo()
        other.append(LINES[1:2])
        publish(file, target)

    monkeypatch.setattr(log, "publish", publish)
    one.replace(LINES[:1])
    assert one.read() == (False, LINES[1:2])


def test_a_line_added_to_a_log_that_was_just_replaced_is_added_again(open_log, monkeypatch):
    one, other = open_log(), open_log()
    one.append(LINES[:1])
    one.read()

    def write(fd, data, write=os.write):
        monkeypatch.undo()
        one.replace(LINES[:1])
        return write(fd, data)

    monkeypatch.setattr(os, "write", write)
    other.append(LINES[1:2])
    assert one.read() == (False, LINES[1:2])


def test_a_torn_line_spoils_no_other(open_log, path):
    one = open_log()
    one.append(LINES[:1])
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole.splitlines()[-1][:-3])
    assert one.read() == (True, LINES[:1])
    one.append(LINES[1:2])
    assert one.read() == (False, LINES[1:2])


def test_the_rest_of_a_line_is_waited_for(open_log, path):
    one = open_log()
    one.append(LINES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert one.read() == (True, LINES[:2])
    path.write_bytes(whole)
    assert one.read() == (False, LINES[2:])


def test_what_was_forgotten_is_read_again(open_log):
    one = open_log()
    one.append(LINES)
    one.read()
    one.forget()
    assert one.read() == (True, LINES)


def test_a_log_that_was_cut_short_is_fresh(open_log, path):
    one = open_log()
    one.append(LINES)
    one.read()
    os.truncate(path, path.stat().st_size - 3)
    assert one.read() == (True, LINES[:2])


def test_a_log_that_cannot_be_read_for_a_while_is_read_again(open_log, path):
    one = open_log()
    one.append(LINES)
    one.read()
    path.rename(path.with_name("away"))
    assert one.read() == (True, [])
    path.with_name("away").rename(path)
    assert one.read() == (True, LINES)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_at_most_the_line_it_is_in(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("log") / "usage.log"
    one = UsageLog(path, path.parent / "tmp")
    one.append(LINES)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    _, lines = one.read()
    assert set(lines) <= set(LINES)
    assert len(lines) >= 1  # two, where the bit makes one line of two
