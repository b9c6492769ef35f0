"""What the command line says while it works."""

import io
import sys
import time

import pytest

from tiercel.cli import console
from tiercel.cli.console import remark, waiting


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch, patience: float) -> Terminal:
    """Standard error is a terminal from now on. For the test itself: after fixtures pytest sets its own."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_PATIENCE", patience)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def seen(terminal: Terminal, text: str) -> bool:
    """Whether a text is shown within some seconds."""
    deadline = time.monotonic() + 20
    while text not in terminal.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return text in terminal.getvalue()


def test_what_takes_long_is_shown_and_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch, 0.01)
    with waiting("first this") as say:
        assert seen(terminal, "first this")
        say("then that")
        assert seen(terminal, "then that")
    after = terminal.getvalue()
    time.sleep(0.3)
    assert terminal.getvalue() == after


def test_what_was_changed_before_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch, 0.2)
    with waiting("first this") as say:
        say("then that")
        assert seen(terminal, "then that")
    assert "first this" not in terminal.getvalue()


def test_what_is_quick_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch, 0.2)
    with waiting("a moment"):
        pass
    time.sleep(0.5)
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_watches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    with waiting("first this") as say:
        say("then that")
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_remarks_are_plain_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    remark("[bold]as it is[/]")
    assert capsys.readouterr() == ("", "[bold]as it is[/]\n")
