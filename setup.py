"""Builds the native kernels with the C++ compiler at hand. Without one the package installs all the same, and says so."""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/tiercel/ops/cpu/native")
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni", "bf16", "vbmi"))]
LEVELS = {"avx2": AVX2, "avx512": AVX512, "amx": [*AVX512, "-mamx-tile", "-mamx-bf16", "-mamx-int8"]}
# Compiled once per level; everything else once, for any x86-64.
KERNELS = (
    "attention",
    "kernels",
    "kv_write",
    "linear",
    "linear_bf16",
    "linear_quantised",
    "matrix_rate",
    "rowwise",
)


class BuildNative(build_ext):
    """Compiles each kernel file once per instruction set."""

    def build_extension(self, ext: Extension) -> None:
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        extra = os.environ.get("TIERCEL_CXXFLAGS", "").split()
        compiler = os.environ.get("CXX", "c++")
        jobs = []
        for source in sorted(NATIVE.glob("*.cpp")):
            levels = LEVELS if source.stem in KERNELS else {"": []}
            for level, flags in levels.items():
                define = [f"-DTIERCEL_LEVEL={level}"] if level else []
                target = folder / f"{source.stem}{level and '-'}{level}.o"
                jobs.append((target, [compiler, *FLAGS, *flags, *define, *extra, "-c", str(source), "-o", str(target)]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: self.spawn(job[1]), jobs))
        library = self.get_ext_fullpath(ext.name)
        Path(library).parent.mkdir(parents=True, exist_ok=True)
        self.spawn([compiler, "-shared", *extra, "-o", library, *(str(target) for target, _ in jobs), "-lpthread"])


X86 = sys.platform == "linux" and platform.machine() == "x86_64"
setup(
    ext_modules=[Extension("tiercel.ops.cpu._native", [], optional=True)] if X86 else [],
    cmdclass={"build_ext": BuildNative},
)
