"""One real server for all tests that need one."""

from collections.abc import Iterator

import pytest

from tests.server.process import ServerProcess, running_server

SMALL = ("--max-model-len", "1024", "--kv-memory", "512MiB", "--threads", "1")


@pytest.fixture(scope="package")
def server() -> Iterator[ServerProcess]:
    """Serves the default model. Ends cleanly on SIGTERM, or the last test fails."""
    with running_server(*SMALL) as server:
        assert server.url
        yield server
        assert server.terminate() == 0
