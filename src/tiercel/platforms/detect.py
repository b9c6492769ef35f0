"""What this process has to work with."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiercel.platforms import cgroups

# What kernels choose their code path by, as Linux names it in /proc/cpuinfo: x86 first, then Arm.
ISA = (
    "fma",
    "f16c",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
# Families of x86 and Arm: a name, the member that says that the family is there, and members worth naming.
_FAMILIES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("AVX2", "avx2", {"avx_vnni": "VNNI"}),
    ("AVX-512", "avx512f", {"avx512_bf16": "BF16", "avx512_fp16": "FP16", "avx512_vnni": "VNNI"}),
    ("AMX", "amx_tile", {"amx_bf16": "BF16", "amx_int8": "INT8"}),
    ("NEON", "asimd", {"asimddp": "dot products", "bf16": "BF16", "i8mm": "INT8"}),
    ("SVE", "sve", {}),
)


@dataclass(frozen=True)
class Platform:
    """One machine as one process may use it.

    cores: processors it may run on at once, affinity and cgroup quota counted; cpu_quota: that quota, None = none.
    memory_total, memory_available: bytes under the tightest cgroup limit. isa: the entries of `ISA` that are there.
    """

    system: str
    machine: str
    cpu: str
    cores: int
    cpu_quota: float | None
    memory_total: int
    memory_available: int
    isa: tuple[str, ...]
    numa_nodes: int

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """The entries of `isa` by family: "AVX-512 (BF16, VNNI)"."""
        return tuple(_family(name, members, self.isa) for name, first, members in _FAMILIES if first in self.isa)


def detect(root: Path = Path("/"), affinity: int | None = None) -> Platform:
    """Reads the machine. `root` stands for "/" and `affinity` for the processors this process is bound to (None = ask).

    Never raises: what a system does not tell is left at a harmless value.
    """
    quota = cgroups.cpu_quota(root)
    processors = affinity if affinity is not None else _processors()
    cpuinfo = _fields(root / "proc/cpuinfo")
    total, available = _memory(root)
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return Platform(
        system=platform.system(),
        machine=platform.machine(),
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        cores=processors if quota is None else max(1, min(processors, int(quota))),
        cpu_quota=quota,
        memory_total=total,
        memory_available=available,
        isa=tuple(name for name in ISA if name in flags),
        numa_nodes=max(1, sum(1 for _ in (root / "sys/devices/system/node").glob("node[0-9]*"))),
    )


def _family(name: str, members: Mapping[str, str], isa: tuple[str, ...]) -> str:
    found = ", ".join(shown for member, shown in members.items() if member in isa)
    return f"{name} ({found})" if found else name


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) bytes: the machine's, cut by every control group this process is in."""
    meminfo = _fields(root / "proc/meminfo")
    total = _kib(meminfo.get("MemTotal")) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _kib(meminfo.get("MemAvailable")) or total // 2  # no such line outside Linux
    limit, left = cgroups.memory_limit(root), cgroups.memory_left(root)
    return min(total, limit or total), available if left is None else min(available, left)


def _kib(text: str | None) -> int:
    number = (text or "").split(" ")[0]
    return int(number) * 1024 if number.isdecimal() else 0


def _fields(path: Path) -> dict[str, str]:
    """The "name : value" lines of a file under /proc, the first of each name."""
    fields: dict[str, str] = {}
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return fields
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields
