"""Detection on made-up machines, and on this one."""

import os
import sys
from pathlib import Path

import pytest

from tiercel.platforms import Platform, detect

GIB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> Path:
    """A file tree that looks like a machine with 16 GiB, 12 GiB of them available."""
    files = {"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\n"} | files
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_limits(tmp_path: Path) -> None:
    cpuinfo = "model name\t: Example 9000\nflags\t\t: fpu avx2 fma avx512f amx_tile amx_int8 sse\n\nmodel name\t: other\n"
    nodes = {f"sys/devices/system/node/node{i}/cpulist": "0" for i in range(2)}
    found = detect(machine(tmp_path, {"proc/cpuinfo": cpuinfo, **nodes}), affinity=8)
    assert (found.cores, found.cpu_quota, found.numa_nodes) == (8, None, 2)
    assert (found.memory_total, found.memory_available) == (16 * GIB, 12 * GIB)
    assert (found.cpu, found.isa) == ("Example 9000", ("fma", "avx2", "avx512f", "amx_tile", "amx_int8"))
    assert found.instruction_sets == ("AVX2", "AVX-512", "AMX (INT8)")


def test_arm_names_its_features(tmp_path: Path) -> None:
    found = detect(machine(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"}))
    assert found.isa == ("asimd", "asimddp", "i8mm")
    assert found.instruction_sets == ("NEON (dot products, INT8)",)


def test_a_system_without_proc(tmp_path: Path) -> None:
    found = detect(tmp_path, affinity=4)
    assert (found.cores, found.isa, found.numa_nodes) == (4, (), 1)
    assert 0 < found.memory_available < found.memory_total


def test_the_quota_bounds_the_cores(tmp_path: Path) -> None:
    mounts = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "sys/fs/cgroup/cpu.max": "250000 100000\n"}
    found = detect(machine(tmp_path, files), affinity=8)
    assert (found.cores, found.cpu_quota) == (2, 2.5)


def test_half_a_processor_is_one_core(tmp_path: Path) -> None:
    mounts = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "sys/fs/cgroup/cpu.max": "50000 100000\n"}
    assert detect(machine(tmp_path, files), affinity=8).cores == 1


def test_the_group_bounds_the_memory(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job\n",
        "proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/job/memory.max": str(4 * GIB),
        "sys/fs/cgroup/job/memory.current": str(3 * GIB),
        "sys/fs/cgroup/job/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
    }
    found = detect(machine(tmp_path, files))
    assert (found.memory_total, found.memory_available) == (4 * GIB, 3 * GIB)


def test_a_wide_group_leaves_what_the_machine_has(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/memory.max": str(64 * GIB),
    }
    found = detect(machine(tmp_path, files))
    assert (found.memory_total, found.memory_available) == (16 * GIB, 12 * GIB)


@pytest.mark.parametrize("junk", ["", "\x00", "0::", "no colon here", "::::", "1:memory"])
def test_broken_files_are_harmless(tmp_path: Path, junk: str) -> None:
    names = ("proc/self/cgroup", "proc/self/mountinfo", "proc/cpuinfo", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/cpu.max")
    found = detect(machine(tmp_path, dict.fromkeys(names, junk)), affinity=2)
    assert (found.cores, found.memory_total) == (2, 16 * GIB)


def test_this_machine() -> None:
    found = detect()
    assert isinstance(found, Platform)
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 64 << 20 < found.memory_available <= found.memory_total
    assert bool(found.isa) == (sys.platform == "linux")
