"""Several processes on one folder, and a process that may read its folder but not write to it."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support import crash_process
from tests.support.crash import end_of, started, work_alone
from tests.support.crash_process import NOBODY


def errors(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("ERROR")]


def test_two_engines_use_one_folder_while_somebody_clears_it(tmp_path):
    with (
        started(crash_process.clear_for_ever, tmp_path) as (clearing, _),
        started(crash_process.work_through, tmp_path, 1, 4) as one,
        started(crash_process.work_through, tmp_path, 2, 4) as two,
    ):
        reports = [end_of(*one), end_of(*two)]
        assert clearing.is_alive()
    for report in reports:
        assert errors(report.log) == []
        assert report.counts["blocks_written"] > 0
        assert not report.counts.get("loads_corrupt")


def test_two_engines_load_what_the_other_wrote(tmp_path):
    first = work_alone(tmp_path, 1)
    with (
        started(crash_process.work_through, tmp_path, 2, 3) as one,
        started(crash_process.work_through, tmp_path, 3, 3) as two,
    ):
        reports = [end_of(*one), end_of(*two)]
    assert first.counts["blocks_written"] > 0
    for report in reports:
        assert errors(report.log) == []
        assert report.stored_tokens > 0
        assert not report.counts.get("loads_corrupt")


@pytest.fixture
def anybodys_folder():
    """That a user without rights can reach and owns."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_may_only_be_read_is_read(anybodys_folder):
    with started(crash_process.work_unprivileged, anybodys_folder, 1) as ends:
        before = end_of(*ends)
    assert before.counts["blocks_written"] > 0
    folders = [anybodys_folder, *(path for path in anybodys_folder.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    objects = sorted(anybodys_folder.rglob("*.kv"))
    with started(crash_process.work_unprivileged, anybodys_folder, 2) as ends:
        report = end_of(*ends)
    assert report.stored_tokens > 0
    assert report.counts["write_failures"] > 0
    assert report.counts.get("blocks_written", 0) == 0
    assert [line for line in report.log if "Permission denied" in line]
    assert errors(report.log) == []
    assert sorted(anybodys_folder.rglob("*.kv")) == objects
    for folder in folders:
        folder.chmod(0o700)
