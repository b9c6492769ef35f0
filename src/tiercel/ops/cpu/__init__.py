"""The native back end: kernels in C++ for x86-64, called through ctypes. No torch."""

from tiercel.ops.cpu.backend import CpuOps
from tiercel.ops.cpu.library import best_level, load_library

__all__ = ["CpuOps", "best_level", "load_library"]
