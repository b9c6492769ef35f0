"""`__all__` of every package, and the size of files and folders."""

import ast
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tiercel"
FILES = sorted(SOURCE.rglob("*.py"))
INITS = [f for f in FILES if f.name == "__init__.py"]
MAX_FILE_LINES = 400
MAX_ENGINE_AND_KV_LINES = 6_000


def dotted(init: Path) -> str:
    return ".".join(init.parent.relative_to(SOURCE.parent).parts)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize("init", INITS, ids=dotted)
def test_public_names_are_listed_sorted_and_there(init: Path) -> None:
    module = importlib.import_module(dotted(init))
    exports = len(ast.parse(init.read_text()).body) > 1
    names = getattr(module, "__all__", None)
    assert (names is not None) == exports, "a package that binds names lists them in __all__"
    assert names == (sorted(set(names)) if exports else None)
    assert [name for name in names or () if not hasattr(module, name)] == []


def test_files_are_short() -> None:
    assert len(FILES) > 20
    assert {f.relative_to(SOURCE).as_posix(): lines(f) for f in FILES if lines(f) > MAX_FILE_LINES} == {}


def test_engine_and_kv_stay_small() -> None:
    total = sum(lines(f) for folder in ("engine", "kv") for f in (SOURCE / folder).rglob("*.py"))
    assert 0 < total < MAX_ENGINE_AND_KV_LINES
