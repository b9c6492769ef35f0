"""Options and the settings they are made from."""

import pytest
from pydantic import BaseModel

from tiercel.cli.groups import ENGINE, MODEL, SAMPLING, SERVER
from tiercel.cli.options import Group
from tiercel.config import EngineConfig
from tiercel.config.server import ServerConfig
from tiercel.types import InvalidInput, SamplingParams


@pytest.mark.parametrize(("group", "settings"), [(ENGINE, EngineConfig), (SERVER, ServerConfig)])
def test_every_setting_is_an_option_with_its_description(group: Group, settings: type[BaseModel]) -> None:
    options = {p.name: p.annotation.__metadata__[0] for p in group.parameters}
    assert [name for name in options if name != "no_store"] == list(settings.model_fields)
    for name, field in settings.model_fields.items():
        assert field.description
        assert options[name].help.startswith(field.description)


def test_options_show_defaults_and_choices() -> None:
    shown = {p.name: p.annotation.__metadata__[0] for p in (*ENGINE.parameters, *SERVER.parameters)}
    assert (shown["max_num_seqs"].metavar, shown["max_num_seqs"].help) == ("N", "most requests that run at once (default: 64)")
    assert shown["kv_memory"].metavar == "SIZE|auto"
    assert shown["dtype"].metavar == "auto|stored|bf16|int8|int4|float32"
    assert shown["prefix_caching"].metavar == "on|off"
    assert shown["prefix_caching"].help.endswith("(default: on)")
    assert shown["max_body"].metavar == "SIZE"
    assert shown["model"].param_decls == ("-m", "--model") or shown["model"].default == "-m"


def test_given_values_become_settings() -> None:
    built = ENGINE.build({"kv_memory": "2GiB", "threads": "3", "prefix_caching": "off", "model": "x"})
    assert isinstance(built, EngineConfig)
    assert (built.kv_memory, built.threads, built.prefix_caching, built.model) == (2 << 30, 3, False, "x")


def test_what_is_not_given_is_left_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_MAX_NUM_SEQS", "5")
    built = ENGINE.build({"model": "x"})
    assert isinstance(built, EngineConfig)
    assert built.max_num_seqs == 5


def test_no_store_switches_the_disk_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_KV_DISK", "/var/kv")
    for given, disk in ({"no_store": True}, "off"), ({}, "/var/kv"):
        built = ENGINE.build(given)
        assert isinstance(built, EngineConfig)
        assert built.kv_disk == disk
    with pytest.raises(InvalidInput, match="give one of them"):
        ENGINE.build({"no_store": True, "kv_disk": "/var/kv"})


def test_lists_become_settings() -> None:
    built = SERVER.build({"allowed_origins": ["http://a", "http://b"], "port": "0"})
    assert isinstance(built, ServerConfig)
    assert (built.allowed_origins, built.port) == (("http://a", "http://b"), 0)


@pytest.mark.parametrize(
    ("group", "given", "field"),
    [
        (ENGINE, {"threads": "many"}, "threads"),
        (ENGINE, {"max_num_seqs": "0"}, "max_num_seqs"),
        (ENGINE, {"backend": "gpu"}, "backend"),
        (SERVER, {"port": "70000"}, "port"),
        (SAMPLING, {"min_p": 2.0}, "min_p"),
        (SAMPLING, {"stop": [""]}, "stop"),
    ],
)
def test_bad_values_are_named(group: Group, given: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        group.build(given)
    assert refused.value.field == field
    assert not refused.value.message.startswith("Value error")


def test_sampling_options_are_sampling_parameters() -> None:
    assert {p.name for p in SAMPLING.parameters} <= set(SamplingParams.__struct_fields__)
    assert [p.name for p in MODEL.parameters] == ["model"]
