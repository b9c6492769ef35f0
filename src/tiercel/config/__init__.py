"""Settings: frozen objects, made from arguments and environment variables. The only reader of the environment."""

from tiercel.config.checked import checked
from tiercel.config.server import ServerConfig
from tiercel.config.settings import EngineConfig
from tiercel.config.sizes import format_size, parse_size

__all__ = ["EngineConfig", "ServerConfig", "checked", "format_size", "parse_size"]
