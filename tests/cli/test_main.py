"""What the command says about itself, and what it says when asked wrongly."""

import subprocess
import sys

import pytest

from tests.cli.conftest import Tiercel
from tiercel.cli.main import COMMANDS

HEAVY = {"jinja2", "pydantic", "tokenizers", "torch", "transformers"}


def test_help_lists_the_commands(tiercel: Tiercel) -> None:
    shown = tiercel("--help")
    assert shown.code == 0
    assert [name for name in COMMANDS if f" {name} " not in shown.out] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = f"""
import sys
from tiercel.cli.main import main
sys.argv = ["tiercel", *{arguments}]
try:
    main()
except SystemExit as stopped:
    print(stopped.code, sorted({HEAVY} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tiercel: Tiercel, command: str) -> None:
    shown = tiercel(command, "--help")
    assert shown.code == 0
    assert COMMANDS[command].split(";")[0].rstrip(".") in " ".join(shown.out.split())


def test_version(tiercel: Tiercel) -> None:
    assert tiercel("--version").out == "tiercel 0.1.0\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["run", "--nonsense", "x"], ["bench", "nonsense"]])
def test_wrong_usage(tiercel: Tiercel, arguments: list[str]) -> None:
    shown = tiercel(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert "Error" in shown.err
    assert "Traceback" not in shown.err
