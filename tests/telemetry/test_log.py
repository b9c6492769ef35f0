"""What lands on standard error, seen from outside the process."""

import json
import subprocess
import sys

SCRIPT = """
import logging
from tiercel.telemetry import configure_logging, get_logger
configure_logging({level!r}, {format!r})
log = get_logger("tiercel.test")
log.debug("hidden")
log.info("ready", url="http://x", tokens=5)
logging.getLogger("foreign").warning("from %s", "elsewhere")
def fail(prompt):
    raise ValueError("broken")
try:
    fail(prompt="a private prompt")
except ValueError:
    log.exception("failed")
"""


def log_lines(level: str, format: str) -> list[str]:
    script = SCRIPT.format(level=level, format=format)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_a_line():
    ready, foreign, failed = (json.loads(line) for line in log_lines("info", "json"))
    assert (ready["event"], ready["level"], ready["logger"], ready["tokens"]) == ("ready", "info", "tiercel.test", 5)
    assert ready["timestamp"].endswith("Z")
    assert (foreign["event"], foreign["level"], foreign["logger"]) == ("from elsewhere", "warning", "foreign")
    assert "ValueError: broken" in failed["exception"]


def test_auto_is_json_where_nobody_watches():
    assert json.loads(log_lines("info", "auto")[0])["event"] == "ready"


def test_console_lines_are_for_people():
    text = "\n".join(log_lines("info", "console"))
    assert "url=http://x" in text
    assert "from elsewhere" in text
    assert "ValueError: broken" in text


def test_tracebacks_show_no_values():
    for format in ("json", "console"):
        assert "a private prompt" not in "\n".join(line for line in log_lines("info", format) if "fail(prompt=" not in line)


def test_level():
    assert len(log_lines("debug", "json")) == 4
    assert len(log_lines("error", "json")) == 1
