"""Raw reads, and files that leave the page cache."""

import mmap
import os
from pathlib import Path

import pytest

from tiercel.bench.page_cache import drop, read_raw, resident_share


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, pages in zip(paths, (64, 192), strict=True):
        path.write_bytes(os.urandom(pages * mmap.PAGESIZE))
    return paths


def test_a_file_that_was_read_is_in_memory(files: list[Path]) -> None:
    assert read_raw(files) > 0
    assert resident_share(files) == 1.0


def test_holes_are_not_in_memory(files: list[Path]) -> None:
    holes = files[0].with_name("holes")
    holes.write_bytes(b"x")
    os.truncate(holes, 256 * mmap.PAGESIZE)
    assert 0 < resident_share([holes]) < 0.25
    assert resident_share([holes]) < resident_share([holes, *files]) < 1


def test_what_is_dropped_is_written_out_first(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(("fsync", os.fstat(fd).st_ino)))
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, advice: calls.append((str(advice), os.fstat(fd).st_ino)))
    drop(files)
    advice = str(os.POSIX_FADV_DONTNEED)
    assert calls == [(what, file.stat().st_ino) for file in files for what in ("fsync", advice)]


def test_a_file_that_shrinks_is_noticed(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {file: file.stat() for file in files}
    files[1].write_bytes(b"short")
    monkeypatch.setattr(Path, "stat", lambda file: sizes[file])
    with pytest.raises(OSError, match="not read in one piece"):
        read_raw(files)
