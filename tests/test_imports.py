"""Who may import whom. Reads every import in the sources, inside functions too, and holds it against two tables."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tiercel"

# A folder imports from rows below its own; inside a row only along an arrow.
ROWS: tuple[tuple[str, ...], ...] = (
    ("types", "config", "registry", "telemetry", "platforms"),
    ("ops", "kv", "stores"),
    ("layers", "sparse", "quantization", "parallel"),
    ("models",),
    ("engine",),
    ("connectors", "control", "disagg", "cacheservice", "calibration"),
    ("server", "viz", "autotune", "lab", "bench"),
    ("cli",),
)
ARROWS: dict[str, tuple[str, ...]] = {
    "config": ("types",),
    "registry": ("types",),
    "telemetry": ("types", "config"),
    "platforms": ("types",),
    "kv": ("stores", "ops"),
    "sparse": ("layers",),
    "quantization": ("layers",),
    "parallel": ("layers",),
    "server": ("viz",),
    "bench": ("viz",),
    "autotune": ("bench",),
    "lab": ("bench",),
}
# Folders that see less than their row would allow.
ONLY: dict[str, tuple[str, ...]] = {
    "types": (),
    "connectors": ("kv", "stores", *ROWS[0]),
}

# A library is imported in the places that are about it, and nowhere else. "" = everywhere.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": ("",),
    "blake3": ("kv", "models", "ops/cpu/saved.py"),
    "fastapi": ("server",),
    "huggingface_hub": ("models/resolve.py",),
    "jinja2": ("models",),
    "llguidance": ("engine/structured.py",),
    "matplotlib": ("viz",),
    "msgspec": ("types", "kv", "engine", "server"),
    "prometheus_client": ("telemetry", "server"),
    "pydantic": ("config", "server", "cli/groups.py"),
    "pydantic_core": ("config",),
    "pydantic_settings": ("config",),
    "rich": ("cli", "bench"),
    "starlette": ("server",),
    "structlog": ("telemetry", "server"),
    "tokenizers": ("models",),
    "torch": ("ops/reference", "bench/peers"),
    "transformers": ("bench/peers",),
    "typer": ("cli",),
    "uvicorn": ("server",),
    "zmq": ("engine",),
}


class Import(NamedTuple):
    """One imported module, and where the statement stands."""

    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} imports {self.module}"

    @property
    def folder(self) -> str:
        """The package folder of the importing file; "" for the front door, tiercel/__init__.py."""
        parts = self.file.relative_to(SOURCE).parts
        return parts[0] if len(parts) > 1 else ""


def imports_of(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the full name"
            yield Import(file, node.lineno, node.module or "")


FILES = sorted(SOURCE.rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]
PACKAGES = sorted(str(f.parent.relative_to(SOURCE.parent)).replace("/", ".") for f in FILES if f.name == "__init__.py")


def allowed_folders(folder: str) -> set[str]:
    if folder in ONLY:
        return {folder, *ONLY[folder]}
    row = next(number for number, names in enumerate(ROWS) if folder in names)
    below = {name for names in ROWS[:row] for name in names}
    return {folder, *below, *ARROWS.get(folder, ())}


def may_import(folder: str, module: str) -> bool:
    """Whether a file in `folder` may import `module`, one of ours. The front door may import anything; nobody imports it."""
    if folder == "":
        return True
    parts = module.split(".")
    return len(parts) > 1 and parts[1] in allowed_folders(folder)


def may_use(file: str, library: str) -> bool:
    """Whether `file` (relative to the package) may import a third-party library."""
    places = LIBRARIES.get(library, ())
    return any(place == "" or file == place or file.startswith(place + "/") for place in places)


def test_every_folder_has_a_row() -> None:
    folders = {f.relative_to(SOURCE).parts[0] for f in FILES if f.parent != SOURCE}
    assert folders <= {name for row in ROWS for name in row}


def test_folders_import_downwards_only() -> None:
    ours = [i for i in IMPORTS if i.module.split(".")[0] == "tiercel"]
    assert len(ours) > 20
    assert [str(i) for i in ours if not may_import(i.folder, i.module)] == []


def test_libraries_stay_in_their_place() -> None:
    foreign = [i for i in IMPORTS if i.module.split(".")[0] not in {"tiercel", *sys.stdlib_module_names}]
    assert len(foreign) > 5
    misplaced = [i for i in foreign if not may_use(i.file.relative_to(SOURCE).as_posix(), i.module.split(".")[0])]
    assert [str(i) for i in misplaced] == []


@pytest.mark.parametrize(
    ("folder", "module", "allowed"),
    [
        ("kv", "tiercel.engine.core", False),
        ("kv", "tiercel.ops", True),
        ("ops", "tiercel.kv", False),
        ("types", "tiercel.config", False),
        ("server", "tiercel.cli.main", False),
        ("server", "tiercel.bench", False),
        ("connectors", "tiercel.engine", False),
        ("cli", "tiercel.engine", True),
        ("models", "tiercel", False),
        ("", "tiercel.engine", True),
    ],
)
def test_the_rows_decide(folder: str, module: str, allowed: bool) -> None:
    assert may_import(folder, module) is allowed


@pytest.mark.parametrize(
    ("file", "library", "allowed"),
    [
        ("ops/reference/linear.py", "torch", True),
        ("engine/runner.py", "torch", False),
        ("models/resolve.py", "huggingface_hub", True),
        ("models/loader.py", "huggingface_hub", False),
        ("types/step.py", "numpy", True),
        ("cli/main.py", "requests", False),
    ],
)
def test_the_library_table_decides(file: str, library: str, allowed: bool) -> None:
    assert may_use(file, library) is allowed


def test_imports_inside_functions_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def f() -> None:\n    import torch.nn\n    from tiercel.cli import main\n")
    assert [(i.line, i.module) for i in imports_of(file)] == [(2, "torch.nn"), (3, "tiercel.cli")]


# Extras: nobody needs them who does not use what they are for.
OPTIONAL = {"fastapi", "huggingface_hub", "llguidance", "matplotlib", "starlette", "torch", "transformers", "uvicorn"}
CORE = ["tiercel", "tiercel.types", "tiercel.config", "tiercel.kv", "tiercel.models", "tiercel.engine", "tiercel.cli.run"]


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_no_extras(module: str) -> None:
    program = f"import sys, {module}; print(sorted({OPTIONAL} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_package_can_be_imported() -> None:
    assert len(PACKAGES) > 10
    for package in PACKAGES:
        assert importlib.import_module(package).__doc__, f"{package} has no docstring"
