"""Settings: frozen objects, made from arguments and environment variables. The only reader of the environment."""

from tiercel.config.checked import checked
from tiercel.config.disk import DiskPlan, resolve_disk
from tiercel.config.model_cache import resolve_model_cache
from tiercel.config.native import native_library
from tiercel.config.server import ServerConfig
from tiercel.config.settings import EngineConfig
from tiercel.config.sizes import format_size, parse_size

__all__ = [
    "DiskPlan",
    "EngineConfig",
    "ServerConfig",
    "checked",
    "format_size",
    "native_library",
    "parse_size",
    "resolve_disk",
    "resolve_model_cache",
]
