"""One process at a time writes to a folder; what a lock meets is an error of the system, whatever the library says."""

import subprocess
import sys

import pytest
from filelock import FileLock

from dreamfactory.pipelines.lock import sole

HOLD = """
import os, pathlib, sys
from dreamfactory.pipelines.lock import sole
with sole(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def hold_and_be_killed(path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True, check=False)


def test_a_lock_is_held_by_one_and_let_go_at_the_end(tmp_path):
    with sole(tmp_path / ".lock"):
        assert "BlockingIOError" in hold_and_be_killed(tmp_path / ".lock").stderr
    with sole(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").exists()


def test_a_killed_process_holds_nothing(tmp_path):
    done = hold_and_be_killed(tmp_path / ".lock")
    assert done.returncode != 0
    assert not done.stderr
    with sole(tmp_path / ".lock"):
        pass


def test_a_place_that_knows_no_locks_is_an_error_of_the_systems(tmp_path, monkeypatch):
    def acquire(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(OSError, match="no locks are known there"), sole(tmp_path / ".lock"):
        pass
