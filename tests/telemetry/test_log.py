"""What lands on standard error, seen from outside the process."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.model_files import write_directory

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
    done = run(SCRIPT.format(level=level, format=format))
    assert done.stdout == ""
    return done.stderr.splitlines()


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)


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


UNCONFIGURED = """
import structlog
from tiercel.telemetry import get_logger
{before}
log = get_logger("tiercel.test")
log.info("hidden")
log.warning("100% full", path="/a b", tokens=5)
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
assert not structlog.is_configured()
"""


def test_a_program_that_configures_nothing_sees_warnings_and_its_output_stays_clean():
    done = run(UNCONFIGURED.format(before=""))
    first, second, *_, last = done.stderr.splitlines()
    assert (done.stdout, first, second) == ("", "100% full path='/a b' tokens=5", "failed")
    assert last == "ValueError: broken"


def test_a_program_may_handle_events_itself():
    before = 'import logging; logging.basicConfig(format="%(levelname)s|%(name)s|%(message)s", level="INFO")'
    done = run(UNCONFIGURED.format(before=before))
    assert done.stdout == ""
    assert done.stderr.splitlines()[:2] == ["INFO|tiercel.test|hidden", "WARNING|tiercel.test|100% full path='/a b' tokens=5"]


ENGINE = """
import asyncio
from tiercel import AsyncLLM, EngineConfig
from tiercel.telemetry import configure_logging
{before}
async def main():
    async with await AsyncLLM.start(EngineConfig(model={model!r}, kv_disk="auto", kv_memory="1MiB", threads=1)):
        pass
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def engine_log(tmp_path_factory):
    """Runs an engine process that has something to warn of, and returns what was said on standard error."""
    folder = tmp_path_factory.mktemp("log")
    model = write_directory(folder / "model")
    (folder / "file").touch()  # where the user's caches should be

    def start(before: str) -> str:
        done = run(ENGINE.format(before=before, model=str(model)), XDG_CACHE_HOME=str(folder / "file"))
        assert done.stdout == ""
        return done.stderr

    return start


def test_an_engine_process_logs_like_its_parent(engine_log):
    assert "[warning  ] KV is not kept on disk" in engine_log('configure_logging("info", "console")')
    assert engine_log('configure_logging("error", "console")') == ""
