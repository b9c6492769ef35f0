"""A server in this process, on a socket of its own, so that connections break and block as they do in life."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from tiercel.config.server import ServerConfig
from tiercel.server import create_app


@contextlib.contextmanager
def serving(llm: object, **settings: object) -> Iterator[str]:
    """Serves `llm` from a thread; gives the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(llm, ServerConfig(**settings))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
