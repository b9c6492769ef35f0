"""Folders as people write them, and those of their caches."""

import os
from pathlib import Path

from tiercel.types import InvalidInput


def user_cache() -> Path | None:
    """This user's cache folder for Tiercel: https://specifications.freedesktop.org/basedir-spec/latest/

    None where there is no home directory to have one in.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # unset, empty or relative: to be ignored
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "tiercel" if base.is_absolute() else None


def absolute(field: str, place: str) -> Path:
    """The folder that `place` stands for, be it written with `~` or relative. Raises InvalidInput that blames `field`."""
    try:
        return Path(place).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise InvalidInput(field, f"cannot tell which folder {place!r} is ({error}); write it in full") from None


def is_switch(place: str) -> bool:
    """Whether a word is meant as a switch, not as the name of a folder."""
    return place.lower() in {"", "on", "off", "yes", "no", "true", "false", "none", "null"}
