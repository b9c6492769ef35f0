"""Builds the native kernels (src/tiercel/ops/cpu/native) with the C++ compiler at hand.

A source whose code stands in `namespace TIERCEL_LEVEL` is compiled once per instruction set; level.cpp, which finds out what a
processor has, for any x86-64; the rest for AVX2, the least that the library runs on. Without a compiler the package installs as
well: one line says what is missing, and a file beside the package's code keeps it for whoever looks for the library.

CXX: the compiler; TIERCEL_CXXFLAGS: further flags. A library that was built from the same sources with the same commands is
taken from build/native.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("tiercel/ops/cpu")
NATIVE = "src" / PACKAGE / "native"
CACHE = Path("build/native")
NOTE = "native_missing.txt"
COMPILERS = (os.environ.get("CXX", ""), "c++", "g++", "clang++")

FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12 finds such values in its own intrinsics
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni", "vbmi"))]
AMX = [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"]
LEVELS = {"avx2": AVX2, "avx512": AVX512, "amx": AMX}  # as level.cpp asks for them


class CannotBuildError(Exception):
    """One line: why there is no library."""


class BuildNative(build_ext):
    """Compiles and links the library; never fails."""

    missing = ""

    def run(self) -> None:
        roots = [Path(self.build_lib), *([Path("src")] if self.inplace else [])]
        super().run()
        for folder in (root / PACKAGE for root in roots):
            (folder / NOTE).unlink(missing_ok=True)
            if self.missing:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / NOTE).write_text(self.missing + "\n")
                for old in folder.glob("_native.*.so"):
                    old.unlink()

    def build_extension(self, ext: Extension) -> None:
        try:
            built = build()
        except CannotBuildError as error:
            self.missing = str(error)
            sys.stderr.write(
                f"warning: tiercel is installed without its native kernels: {error}. They take a C++20 compiler (g++ 11, "
                "clang 14 or newer); without them tiercel computes with torch (the `reference` extra), several times slower.\n"
            )
        else:
            library = Path(self.get_ext_fullpath(ext.name))
            library.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(built, library)


def build() -> Path:
    """The library's path in the cache. Raises CannotBuildError."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotBuildError(f"they are for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
    compiler = next((path for name in COMPILERS if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise CannotBuildError(f"there is no C++ compiler (looked for {', '.join(filter(None, COMPILERS))})")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    extra = os.environ.get("TIERCEL_CXXFLAGS", "").split()
    jobs = [(source, name, flags) for source in sources(".cpp") for name, flags in variants(source)]
    commands = {name: [compiler, *FLAGS, *flags, *extra, "-c", str(source), "-o"] for source, name, flags in jobs}

    digest = hashlib.blake2b(repr((version, commands)).encode(), digest_size=10)
    for path in sources(".cpp", ".h"):
        digest.update(path.read_bytes())
    library = CACHE / f"{digest.hexdigest()}.so"
    if library.exists():
        return library

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(lambda name: run([*commands[name], f"{folder}/{name}.o"]), largest_first(jobs))
        if not all(list(outcomes)):
            raise CannotBuildError(f"{compiler} ({version}) cannot compile them")
        # Inline functions that several objects define are taken from the first, so objects that ask least of a processor lead.
        objects = [f"{folder}/{name}.o" for _, name, flags in sorted(jobs, key=lambda job: len(job[2]))]
        CACHE.mkdir(parents=True, exist_ok=True)
        linked = f"{folder}/library.so"
        if not run([compiler, "-shared", *extra, "-o", linked, *objects, "-lpthread"]):
            raise CannotBuildError(f"{compiler} ({version}) cannot link them")
        shutil.move(linked, library)
    return library


def sources(*suffixes: str) -> list[Path]:
    """The native sources with these suffixes, by name."""
    return sorted(path for path in NATIVE.iterdir() if path.suffix in suffixes)


def variants(source: Path) -> list[tuple[str, list[str]]]:
    """What a source is compiled to: names of objects, and the flags of each."""
    if re.search(r"^namespace (tiercel::)?TIERCEL_LEVEL\b", source.read_text(), re.MULTILINE):
        return [(f"{source.stem}-{level}", [*flags, f"-DTIERCEL_LEVEL={level}"]) for level, flags in LEVELS.items()]
    return [(source.stem, [] if source.stem == "level" else AVX2)]


def largest_first(jobs: list[tuple[Path, str, list[str]]]) -> list[str]:
    """Names of objects, those that take longest to compile first, so that no processor is left with one at the end."""
    return [name for source, name, _ in sorted(jobs, key=lambda job: -job[0].stat().st_size)]


def run(command: list[str]) -> bool:
    """Whether a command succeeds. What it says goes to this process's output."""
    try:
        return subprocess.run(command).returncode == 0
    except OSError:
        return False


setup(
    ext_modules=[
        Extension(
            "tiercel.ops.cpu._native",
            sources=[str(path) for path in sources(".cpp")],
            depends=[str(path) for path in sources(".h")],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
