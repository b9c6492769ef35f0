"""Runs the server: engine process, HTTP, signals, and an orderly end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from tiercel.config import EngineConfig
from tiercel.config.server import ServerConfig
from tiercel.engine.async_llm import AsyncLLM
from tiercel.server.app import create_app
from tiercel.telemetry import configure_logging, get_logger
from tiercel.types import InvalidInput

log = get_logger("tiercel.server")

_BACKLOG = 2048  # connections that may wait to be accepted
_LAST_WORDS = 2.0  # seconds for error answers to leave before connections are cut


def serve(engine_config: EngineConfig, server_config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT, then returns once requests and engine have ended.

    A first signal lets running requests finish for `shutdown_timeout` seconds, a second ends them at once.
    Raises InvalidInput if the address cannot be listened on, and what `AsyncLLM.start` raises.
    """
    configure_logging(server_config.log_level, server_config.log_format)
    with contextlib.suppress(asyncio.CancelledError):  # a signal while the model was loading
        asyncio.run(_serve(engine_config, server_config))


async def _serve(engine_config: EngineConfig, config: ServerConfig) -> None:
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, main.cancel)
    with _listen(config) as listener:
        log.info("loading", model=engine_config.model)
        async with await AsyncLLM.start(engine_config) as llm:
            log.info("memory plan", plan=str(llm.plan))
            await run_http(llm, config, listener)
    log.info("stopped")


async def run_http(llm: AsyncLLM, config: ServerConfig, listener: socket.socket) -> None:
    """Answers on `listener` until a signal comes. The engine outlives it."""
    app = create_app(llm, config)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            backlog=_BACKLOG,
            server_header=False,
            timeout_keep_alive=65,  # longer than clients keep their pooled connections, so that none sends into a closing one
            timeout_graceful_shutdown=int(config.shutdown_timeout + _LAST_WORDS) + 1,
        )
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        admission = app.state.admission
        if server.should_exit:
            admission.interrupt()
            return
        log.info("stopping", seconds=config.shutdown_timeout)
        server.should_exit = True
        admission.close()
        loop.call_later(config.shutdown_timeout, admission.interrupt)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    listener.listen(_BACKLOG)
    host, port = listener.getsockname()[:2]
    log.info("ready", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", model=llm.model_name)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again once it has stopped, which would make a clean end look like a crash."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(config: ServerConfig) -> socket.socket:
    """Takes the address before the model is loaded, so that one already in use is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InvalidInput("port", f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error
    return listener
