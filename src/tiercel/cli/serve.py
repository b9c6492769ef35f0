"""`tiercel serve`: the OpenAI-compatible HTTP server."""

import typer

from tiercel.cli.groups import ENGINE, SERVER
from tiercel.cli.options import takes
from tiercel.config import EngineConfig
from tiercel.config.server import ServerConfig


def register(app: typer.Typer, about: str) -> None:
    app.command("serve", help=about)(serve)


@takes(engine=ENGINE, server=SERVER)
def serve(engine: EngineConfig, server: ServerConfig) -> None:
    from tiercel.server import serve as run_server

    run_server(engine, server)
