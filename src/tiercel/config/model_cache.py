"""Where what was made of model files is kept for the next start."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from tiercel.config.places import absolute, is_switch, user_cache

if TYPE_CHECKING:
    from tiercel.config.settings import EngineConfig


def resolve_model_cache(config: "EngineConfig") -> Path | None:
    """The folder that `model_cache` stands for; None where it is off, or where "auto" finds no home directory to live in.

    Raises InvalidInput where a folder written in short (`~`, relative) stands for none.
    """
    if config.model_cache == "off":
        return None
    if config.model_cache == "auto":
        cache = user_cache()
        return None if cache is None else cache / "models"
    return absolute("model_cache", config.model_cache)


def _check(text: str) -> str:
    """Raises ValueError unless `text` is one of the forms."""
    if text != "off" and (is_switch(text) or "\0" in text):
        raise ValueError("write auto, off, or a folder")
    return text


ModelCachePlace = Annotated[str, AfterValidator(_check)]
