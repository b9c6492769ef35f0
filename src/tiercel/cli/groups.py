"""The groups of options: engine, model and server, made from the fields of their settings, and sampling."""

import inspect
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tiercel.cli.options import Group, option
from tiercel.config import EngineConfig, ServerConfig, checked, format_size, parse_size
from tiercel.types import InvalidInput, SamplingParams

Settings = TypeVar("Settings", bound=BaseModel)
Given = Mapping[str, Any]  # sampling settings by name, those the user gave

_SHORT = {"model": "-m"}
_PLACEHOLDERS = {bool: "on|off", int: "N", float: "X"}


def settings_group(settings: type[Settings], panel: str, names: tuple[str, ...] = ()) -> Group:
    """One option per field, or for some of them. Values stay text: the settings' own checks decide, and an option not given
    is left to them."""

    def build(given: dict[str, Any]) -> Settings:
        return checked(settings, given)

    fields = {name: field for name, field in settings.model_fields.items() if not names or name in names}
    return Group(tuple(_field_option(name, field, panel) for name, field in fields.items()), build)


def _field_option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    long = "--" + name.replace("_", "-")
    spellings = (_SHORT[name], long) if name in _SHORT else (long,)
    many = get_origin(field.annotation) is tuple
    placeholder = "SIZE" if _is_size(field.metadata) else "TEXT" if many else _placeholder(field.annotation)
    about = f"{field.description}{_default(field)}"
    kind = list[str] | None if many else str | None
    return option(name, kind, *spellings, metavar=placeholder, help=about, show_default=False, rich_help_panel=panel)


def _default(field: FieldInfo) -> str:
    if field.default in (None, "", ()):
        return ""
    if isinstance(field.default, bool):
        return f" (default: {'on' if field.default else 'off'})"
    return f" (default: {format_size(field.default) if _is_size(field.metadata) else field.default})"


def _is_size(metadata: Iterable[object]) -> bool:
    return any(getattr(check, "func", None) is parse_size for check in metadata)


def _placeholder(annotation: Any) -> str:
    """Literal["auto", "float32"] -> "auto|float32"; Size | Literal["auto"] -> "SIZE|auto"."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if _is_size(getattr(annotation, "__metadata__", ())):
        return "SIZE"
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_placeholder(part) for part in get_args(annotation) if part is not NoneType)
    return _PLACEHOLDERS.get(getattr(annotation, "__origin__", annotation), "TEXT")


_SAMPLING = {
    "max_tokens": (int, "N", "most tokens of an answer (default: 512)"),
    "temperature": (float, "X", "0 always takes the likeliest token, 1 samples as the model was trained"),
    "top_p": (float, "X", "sample among the likeliest tokens that hold this share of the probability"),
    "top_k": (int, "N", "sample among this many of the likeliest tokens; 0 = all"),
    "min_p": (float, "X", "leave out tokens below this share of the likeliest one's probability"),
    "repetition_penalty": (float, "X", "divides the odds of tokens seen in prompt or answer; 1 = off"),
    "presence_penalty": (float, "X", "taken off the logit of tokens seen in the answer"),
    "frequency_penalty": (float, "X", "taken off the logit each time a token was seen in the answer"),
    "seed": (int, "N", "the same seed gives the same answer"),
    "stop": (list[str], "TEXT", "end the answer before this text; may be given several times"),
}


def _build_sampling(given: dict[str, Any]) -> Given:
    SamplingParams(**given)  # refuses bad values now, before a model is loaded
    return given


def _engine_group() -> Group:
    """Every setting of the engine, and one switch that people look for."""
    settings = settings_group(EngineConfig, "Engine")
    about = "keep no KV on disk: the same as --kv-disk off"
    no_store = option("no_store", bool, "--no-store", help=about, show_default=False, rich_help_panel="Engine")

    def build(given: dict[str, Any]) -> object:
        chosen = {name: value for name, value in given.items() if name != "no_store"}
        if given.get("no_store"):
            if "kv_disk" in chosen:
                raise InvalidInput(
                    "no_store", "--kv-disk says where to keep KV, --no-store says to keep none; give one of them"
                )
            chosen["kv_disk"] = "off"
        return settings.build(chosen)

    return Group((*settings.parameters, no_store), build)


ENGINE = _engine_group()
MODEL = settings_group(EngineConfig, "Engine", ("model",))
DISK = settings_group(EngineConfig, "Store", ("kv_disk",))
SERVER = settings_group(ServerConfig, "Server")
SAMPLING = Group(
    tuple(
        option(name, kind | None, metavar=metavar, help=about, show_default=False, rich_help_panel="Sampling")
        for name, (kind, metavar, about) in _SAMPLING.items()
    ),
    _build_sampling,
)
