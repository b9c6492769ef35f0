"""Settings read from a file, checked one by one: whoever wrote the file is not trusted."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tiercel.types import CheckpointError

_MAX_JSON_BYTES = 1 << 26


class Fields:
    """Typed access to a mapping that came from a file. Every error is a CheckpointError naming file and key.

    A key that is missing or null takes the default; without a default that is an error.
    """

    def __init__(self, source: str, values: Mapping[str, object]) -> None:
        self.source = source
        self._values = values

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def error(self, key: str, message: str) -> CheckpointError:
        """The error to raise about a key."""
        return CheckpointError(f"{self.source}: {key} {message}")

    def states(self, key: str) -> bool:
        """Whether the key is there at all, be it null."""
        return key in self._values

    def value(self, key: str) -> object:
        """Whatever stands there; None if nothing does."""
        return self._values.get(key)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in low .. high."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"must be a whole number between {low} and {high}, not {_shown(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number in low .. high."""
        value = self._get(key, default)
        # Bounds before conversion: float() of a huge integer overflows. They also refuse nan and infinities.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, f"must be a number between {low:g} and {high:g}, not {_shown(value)}")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_shown(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"must be text, not {_shown(value)}")
        return value

    def section(self, key: str) -> "Fields":
        """A mapping inside this one; empty if missing."""
        value = self._values.get(key)
        if value is None:
            return Fields(f"{self.source}: {key}", {})
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {_shown(value)}")
        return Fields(f"{self.source}: {key}", value)

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """A token id or a list of them; none if missing."""
        value = self._values.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise self.error(key, f"must hold token ids below {vocab_size}, not {_shown(token_id)}")
        return tuple(ids)

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        return value


def read_fields(path: Path, *, required: bool = True) -> Fields:
    """A JSON object on disk. A missing file is an error, or an empty object if it is not required."""
    if not required and not path.exists():
        return Fields(path.name, {})
    return Fields(path.name, read_json(path))


def read_json(path: Path) -> dict[str, object]:
    """A JSON object on disk, as it stands. Raises CheckpointError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB, too large for a settings file")
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return parse_json_object(raw, str(path))


def parse_json_object(raw: bytes, source: str, *, strict: bool = False) -> dict[str, object]:
    """A JSON object from bytes. Strict: no name twice in one object, no NaN or Infinity. Raises CheckpointError."""
    try:
        parsed: object = json.loads(
            raw.decode(),
            object_pairs_hook=_distinct if strict else None,
            parse_constant=_refused if strict else None,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{source} must hold a JSON object, not {_shown(parsed)}")
    return parsed


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    distinct = dict(pairs)
    if len(distinct) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return distinct


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _shown(value: object) -> str:
    """A value in an error message, never longer than a line."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number beyond 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
