"""Control groups of both versions, nested, inside and outside containers."""

from pathlib import Path

import pytest

from tiercel.platforms import cgroups

V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw
32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_MOUNTS = "31 23 0:28 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"


def tree(root: Path, mounts: str, membership: str, files: dict[str, object]) -> Path:
    written = {"proc/self/mountinfo": mounts, "proc/self/cgroup": membership}
    written |= {f"sys/fs/cgroup/{name}": f"{value}\n" for name, value in files.items()}
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_takes_the_tightest_group_on_the_way_up(tmp_path: Path) -> None:
    files = {"a/memory.max": 500, "a/b/memory.max": 800, "a/b/c/memory.max": "max", "other/memory.max": 10}
    root = tree(tmp_path, V2_MOUNTS.format(root="/"), "0::/a/b/c\n", files)
    assert cgroups.memory_limit(root) == 500


def test_version_2_counts_the_throttling_mark(tmp_path: Path) -> None:
    root = tree(tmp_path, V2_MOUNTS.format(root="/"), "0::/a\n", {"a/memory.max": 900, "a/memory.high": 700})
    assert cgroups.memory_limit(root) == 700


def test_what_is_left_is_the_least_over_the_groups(tmp_path: Path) -> None:
    files = {
        "a/memory.max": 1000,
        "a/memory.current": 900,
        "a/memory.stat": "anon 5\ninactive_file 300",
        "a/b/memory.max": 700,
        "a/b/memory.current": 100,
    }
    root = tree(tmp_path, V2_MOUNTS.format(root="/"), "0::/a/b\n", files)
    assert (cgroups.memory_limit(root), cgroups.memory_left(root)) == (700, 400)


def test_nothing_is_left_of_an_overdrawn_group(tmp_path: Path) -> None:
    root = tree(tmp_path, V2_MOUNTS.format(root="/"), "0::/\n", {"memory.max": 100, "memory.current": 150})
    assert cgroups.memory_left(root) == 0


def test_version_1_beside_an_empty_version_2(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/job/memory.limit_in_bytes": 600,
        "memory/job/memory.usage_in_bytes": 400,
        "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 150",
        "cpu,cpuacct/job/cpu.cfs_quota_us": 150_000,
        "cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
        "cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/cpu.cfs_period_us": 100_000,
    }
    root = tree(tmp_path, V1_MOUNTS.format(root="/"), "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n", files)
    assert (cgroups.memory_limit(root), cgroups.memory_left(root), cgroups.cpu_quota(root)) == (600, 350, 1.5)


@pytest.mark.parametrize("mounts", [V1_MOUNTS, V2_MOUNTS])
def test_inside_a_container_the_mount_shows_the_own_group(tmp_path: Path, mounts: str) -> None:
    files = {"memory/memory.limit_in_bytes": 300, "memory.max": 300}
    membership = "4:memory:/docker/abc\n0::/docker/abc\n"
    assert cgroups.memory_limit(tree(tmp_path, mounts.format(root="/docker/abc"), membership, files)) == 300


@pytest.mark.parametrize("group", ["/../sibling", "/elsewhere"])
def test_a_group_out_of_sight_is_bound_by_the_mount(tmp_path: Path, group: str) -> None:
    root = tree(tmp_path, V2_MOUNTS.format(root="/docker/abc"), f"0::{group}\n", {"memory.max": 300})
    assert cgroups.memory_limit(root) == 300


def test_quota_is_the_least_over_the_groups(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 20000"}
    assert cgroups.cpu_quota(tree(tmp_path, V2_MOUNTS.format(root="/"), "0::/a/b\n", files)) == 2.5


def test_no_groups_no_limits(tmp_path: Path) -> None:
    found = (cgroups.memory_limit(tmp_path), cgroups.memory_left(tmp_path), cgroups.cpu_quota(tmp_path))
    assert found == (None, None, None)
