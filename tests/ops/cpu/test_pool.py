"""The thread pool, through a small C++ program that is compiled with it: fewer, as many and more threads than processors."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "src" / "tiercel" / "ops" / "cpu" / "native"
CASES = re.findall(r'^    \{"(\w+)", \1\},$', (HERE / "pool_cases.cpp").read_text(), re.MULTILINE)
# Sanitizers that are loaded into this process are built into the program where it needs them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "there is no C++ compiler"
    target = tmp_path_factory.mktemp("pool") / "pool_cases"
    flags = ["-std=c++20", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *os.environ.get("TIERCEL_CXXFLAGS", "").split()]
    files = [HERE / "pool_cases.cpp", NATIVE / "pool.cpp", NATIVE / "level.cpp"]
    subprocess.run([compiler, *flags, "-I", NATIVE, *files, "-o", target, "-lpthread"], check=True, env=ENVIRONMENT)
    return target


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("case", CASES)
def test_pool(program: Path, case: str, threads: int) -> None:
    done = subprocess.run([program, case, str(threads)], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "")
