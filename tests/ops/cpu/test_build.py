"""What setup.py builds, and what it says where it cannot."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tiercel.ops.cpu import best_level, library
from tiercel.ops.cpu.library import LEVELS, library_path
from tiercel.platforms import detect
from tiercel.types import ModelError

REPOSITORY = Path(__file__).parents[3]
AVX512 = {f"avx512{part}" for part in ("f", "bw", "vl", "dq", "vbmi", "_vnni")}
AMX = {"avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}


def run_setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | environment
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_working_compiler_one_line_says_what_is_missing(tmp_path: Path, compiler: str) -> None:
    broken = shutil.which("false") if compiler == "broken" else None
    done = run_setup("build_ext", "--build-lib", str(tmp_path), CXX=broken or "", PATH="/nonexistent")
    notes = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert done.returncode == 0
    assert [path.name for path in notes] == ["native_missing.txt"]
    assert done.stderr.count("\n") == 1
    assert notes[0].read_text().strip() in done.stderr
    for word in ("C++20 compiler", "g++ 11", "clang 14", "torch", "slower"):
        assert word in done.stderr


def test_the_reason_is_told_to_whoever_asks_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "native_missing.txt").write_text("there is no C++ compiler\n")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv("TIERCEL_NATIVE_LIBRARY", raising=False)
    with pytest.raises(ModelError, match=r"there is no C\+\+ compiler"):
        library_path()


def test_a_source_distribution_holds_the_native_sources(tmp_path: Path) -> None:
    done = run_setup("egg_info", "--egg-base", str(tmp_path), "sdist", "--formats=tar", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar")
    with tarfile.open(archive) as files:
        names = {Path(name).name for name in files.getnames() if "/ops/cpu/native/" in name}
    native = REPOSITORY / "src" / "tiercel" / "ops" / "cpu" / "native"
    assert names == {path.name for path in native.iterdir() if path.suffix in (".cpp", ".h")}


def test_the_library_shows_its_interface_and_nothing_else() -> None:
    shown = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in shown.splitlines() if " T " in line} == set(library._SIGNATURES)


def test_the_level_found_is_what_the_system_lists() -> None:
    isa = {line.strip() for line in Path("/proc/cpuinfo").read_text().replace(" ", "\n").splitlines()}
    expected = "avx2" if not isa >= AVX512 else "avx512" if not isa >= AMX else "amx"
    assert best_level() == expected
    assert LEVELS.index(best_level()) == 0 or "avx512f" in detect().isa
