"""The `tiercel` command. Loads only the module of the command that was asked for, so that help answers at once."""

import sys
from importlib import import_module
from typing import Annotated

import typer

from tiercel.cli.console import show_error
from tiercel.cli.loading import loading

COMMANDS = {
    "run": "Answer one prompt.",
    "chat": "Talk with a model; its memory of the conversation is the KV cache.",
    "serve": "Serve a model over HTTP, compatible with OpenAI's API.",
    "model": "What a model is made of.",
    "cache": "The KV kept on disk: what there is, whether it is sound; remove it, carry it elsewhere.",
    "platform": "What this machine offers.",
    "bench": "Measure latency, throughput and prefix reuse.",
    "demo": "Ask a long essay several questions and watch the KV cache at work.",
}


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 asked for wrongly, 130 interrupted."""
    try:
        with loading():
            app = build_app(sys.argv[1:])
        app()
    except Exception as error:
        sys.exit(show_error(error))


def build_app(arguments: list[str]) -> typer.Typer:
    """The application with the command that `arguments` name; of the others it knows the names and one line each."""
    app = typer.Typer(
        help="LLM inference built around the KV cache: what was computed once is kept and found again.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, about in COMMANDS.items():
        if name == wanted:
            import_module(f"tiercel.cli.{name}").register(app, about)
        else:
            app.command(name, help=about)(_not_loaded)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tiercel {version('tiercel')}")
        raise typer.Exit


def _global_options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")] = False,
) -> None:
    """Options that stand before the command."""


def _not_loaded() -> None:
    """Stands for a command that was not asked for."""
