"""The bytes of the device blocks."""

import mmap

import numpy as np

from tiercel.kv import Arena
from tiercel.kv.arena import _populate
from tiercel.models.null import null_groups
from tiercel.types import KVGroup, KVLayout

LARGE = KVGroup(KVLayout((0, 1), num_kv_heads=4, head_dim=64))  # 256 KiB a block


def resident():
    """Bytes of this process's memory, by the kernel's count."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_blocks_are_views_that_do_not_overlap():
    arena = Arena(null_groups((None, 70)), 3)
    for group in range(2):
        for slot in range(3):
            arena.block(group, slot)[:] = bytes([10 * group + slot]) * len(arena.block(group, slot))
    for group in range(2):
        for slot in range(3):
            assert set(bytes(arena.block(group, slot))) == {10 * group + slot}
    assert all(area.ctypes.data % mmap.PAGESIZE == 0 for area in arena.groups)


def test_populating_finds_memory_for_the_first_blocks_and_changes_nothing():
    arena = Arena([LARGE], 512)  # 128 MiB
    arena.block(0, 3)[:5] = b"hello"
    before = resident()
    arena.populate(64 << 20).join()
    assert 60 << 20 < resident() - before < 80 << 20
    assert bytes(arena.block(0, 3)[:6]) == b"hello\0"
    assert not np.any(arena.groups[0][-1000:])


def test_populating_does_not_reach_beyond_the_arena():
    arena = Arena(null_groups(), 3)
    arena.populate(1 << 40).join()
    assert not np.any(arena.groups[0])


def test_a_system_that_refuses_is_left_alone():
    area = np.full(mmap.PAGESIZE + 1, 7, np.uint8)[1:]  # does not begin on a page: the call is refused
    _populate([area])
    assert set(area) == {7}
