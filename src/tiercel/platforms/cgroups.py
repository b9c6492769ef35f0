"""Limits that Linux control groups put on this process, versions 1 and 2.

A process sits in one group per hierarchy; a group is bound by its own limits and by those of every group above it. Files and
their meaning: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest number of whole pages


class Mount(NamedTuple):
    """A mounted hierarchy. `root` is the group that stands at `point`: inside a container often not "/"."""

    root: str
    point: str
    controllers: frozenset[str]  # empty for version 2


class Group(NamedTuple):
    """One control group's directory, and whether its files are those of version 2."""

    path: Path
    unified: bool


def memory_limit(root: Path) -> int | None:
    """The tightest memory limit in bytes; None = unlimited."""
    return min((limit for group in groups(root, "memory") if (limit := _limit(group)) is not None), default=None)


def memory_left(root: Path) -> int | None:
    """Bytes that may still be used before some group meets its limit; None = unlimited.

    Cached file pages that the kernel would drop first (inactive_file) do not count as used.
    """
    left = []
    for group in groups(root, "memory"):
        limit = _limit(group)
        if limit is not None:
            used = _number(group.path / ("memory.current" if group.unified else "memory.usage_in_bytes")) or 0
            left.append(max(0, limit - max(0, used - _droppable(group))))
    return min(left, default=None)


def cpu_quota(root: Path) -> float | None:
    """Processors' worth of time that may be used; None = unlimited."""
    return min((quota for group in groups(root, "cpu") if (quota := _quota(group)) is not None), default=None)


def groups(root: Path, controller: str) -> Iterator[Group]:
    """This process's group of a controller and every group above it, in each mounted hierarchy."""
    membership = dict(_membership(root))
    for mount in _mounts(root):
        unified = not mount.controllers
        member = membership.get("" if unified else controller)
        if member is None or not (unified or controller in mount.controllers):
            continue
        point = root / mount.point.lstrip("/")
        for path in _upwards(_below(mount.root, member)):
            yield Group(point / path, unified)


def _membership(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, group) pairs of /proc/self/cgroup; the controller of version 2 is ""."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number and group:
            for controller in controllers.split(","):
                yield controller, group


def _mounts(root: Path) -> Iterator[Mount]:
    """The cgroup lines of /proc/self/mountinfo: id parent device ROOT POINT options [tags] - TYPE source OPTIONS."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            controllers = frozenset(right[2].split(",")) if right[0] == "cgroup" else frozenset[str]()
            yield Mount(left[3], left[4], controllers)


def _below(mount_root: str, group: str) -> PurePosixPath:
    """The group's path under the mount. A group outside the mount's view is bound at least by what stands at its root."""
    try:
        inside = PurePosixPath(group).relative_to(mount_root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in inside.parts else inside


def _upwards(path: PurePosixPath) -> Iterator[PurePosixPath]:
    yield path
    yield from path.parents


def _limit(group: Group) -> int | None:
    names = ("memory.max", "memory.high") if group.unified else ("memory.limit_in_bytes",)
    limits = [n for name in names if (n := _number(group.path / name)) is not None]
    return min((n for n in limits if n < UNLIMITED), default=None)


def _droppable(group: Group) -> int:
    key = "inactive_file" if group.unified else "total_inactive_file"
    for line in _read(group.path / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _quota(group: Group) -> float | None:
    if group.unified:
        quota, _, period = _read(group.path / "cpu.max").partition(" ")
    else:
        quota, period = _read(group.path / "cpu.cfs_quota_us"), _read(group.path / "cpu.cfs_period_us")
    if not quota.isdecimal() or not period.isdecimal() or int(quota) == 0 or int(period) == 0:
        return None  # "max" (version 2), -1 (version 1) or no such file
    return int(quota) / int(period)


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """A file's text without the white space around it; "" where it cannot be read: absent, not ours, not Linux."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
