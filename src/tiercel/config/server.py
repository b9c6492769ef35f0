"""Settings of the HTTP server."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tiercel.config.sizes import parse_size

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]


class ServerConfig(BaseSettings):
    """What a user may choose about serving. Every field can also be set by an environment variable: TIERCEL_SERVER_PORT, ..."""

    model_config = SettingsConfigDict(env_prefix="TIERCEL_SERVER_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on; the default is reached from this machine only")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 = any free one, named in the log")
    api_key: SecretStr | None = Field(None, description="bearer token that /v1 asks for; none = open")
    allowed_origins: tuple[str, ...] = Field((), description="web origins whose pages may call the API (CORS)")
    max_queued: int = Field(512, ge=0, description="sequences that may wait beyond those that run; more are refused with 429")
    max_body: Annotated[int, BeforeValidator(parse_size), Field(ge=1)] = Field(
        8 * 2**20, description="largest request body, e.g. 8MiB"
    )
    request_timeout: float = Field(1800.0, gt=0, le=10**7, description="seconds after which a request is given up")
    shutdown_timeout: float = Field(10.0, ge=0, le=10**7, description="seconds that running requests get at shutdown")
    log_level: LogLevel = Field("info", description="least level that is logged")
    log_format: LogFormat = Field("auto", description="console = coloured lines, json = one object a line, auto = by terminal")
