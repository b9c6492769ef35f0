"""The OpenAI-compatible HTTP server."""

from tiercel.server.app import create_app
from tiercel.server.serve import serve

__all__ = ["create_app", "serve"]
