"""Settings of the server from arguments and environment."""

import pytest
from pydantic import ValidationError

from tiercel.config import EngineConfig
from tiercel.config.server import ServerConfig


def test_defaults_are_private():
    config = ServerConfig()
    assert config.host == "127.0.0.1"
    assert config.allowed_origins == ()
    assert config.api_key is None


def test_environment(monkeypatch):
    monkeypatch.setenv("TIERCEL_SERVER_PORT", "9000")
    monkeypatch.setenv("TIERCEL_SERVER_MAX_BODY", "1MiB")
    monkeypatch.setenv("TIERCEL_SERVER_API_KEY", "sesame")
    monkeypatch.setenv("TIERCEL_SERVER_ALLOWED_ORIGINS", '["https://a.example"]')
    config = ServerConfig()
    assert (config.port, config.max_body, config.allowed_origins) == (9000, 2**20, ("https://a.example",))
    assert config.api_key.get_secret_value() == "sesame"
    assert "sesame" not in repr(config)
    assert ServerConfig(port=1).port == 1
    assert EngineConfig().model  # the server's variables are not the engine's


@pytest.mark.parametrize(
    "bad", [{"port": -1}, {"port": 65536}, {"max_queued": -1}, {"request_timeout": 0}, {"max_body": "many"}, {"colour": "red"}]
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ValidationError) as caught:
        ServerConfig(**bad)
    assert caught.value.errors()[0]["loc"] == tuple(bad)


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        ServerConfig().port = 1
