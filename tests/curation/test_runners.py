"""Sources that take their process with them, or never end, and a disk that is full: what they cost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from dreamfactory import cli

from ..footage import film

# Python reads it as it starts: only the children do, since this process has started already.
TRAPS = """
import errno, os, time
import av
opened, replaced = av.open, os.replace

def open(file, *arguments, **options):
    if "killer" in str(file):
        os.kill(os.getpid(), 11)
    if "sleeper" in str(file):
        time.sleep(600)
    return opened(file, *arguments, **options)

def replace(source, target):
    if "rows.json" in str(target) and os.path.exists(os.environ.get("FULL", "")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    replaced(source, target)

av.open, os.replace = open, replace
"""
QUICK = ["--quiet", "--set", "scenes.detector=content", "--set", "scores.text=none", "--set", "clips.speed=ultrafast"]


@pytest.fixture
def traps(tmp_path, monkeypatch):
    (tmp_path / "traps").mkdir()
    (tmp_path / "traps" / "sitecustomize.py").write_text(TRAPS)
    monkeypatch.syspath_prepend(str(tmp_path / "traps"))


def statuses(out: Path) -> dict[str, str]:
    return {row["source"]: row["status"] for row in parquet.read_table(out / "sources.parquet").to_pylist()}


@pytest.mark.parametrize("runner", ["inline", "processes", "ray"])
def test_a_source_that_kills_its_process_costs_only_itself(traps, tmp_path, capsys, runner):
    if runner == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    film(tmp_path / "videos" / "a.mp4", [1])
    film(tmp_path / "videos" / "killer.mp4", [2])
    film(tmp_path / "videos" / "z.mp4", [3])
    assert cli.main(["curate", *QUICK, str(tmp_path / "videos"), str(tmp_path / "set"), "--runner", runner]) == 3
    assert statuses(tmp_path / "set") == {"a.mp4": "ok", "killer.mp4": "failed", "z.mp4": "ok"}
    told = capsys.readouterr().err
    assert "was ended by SIGSEGV, 2 times" in told
    assert "Traceback" not in told


def test_a_source_that_never_ends_is_left_after_a_time(traps, tmp_path, capsys):
    film(tmp_path / "videos" / "sleeper.mp4", [2])
    film(tmp_path / "videos" / "z.mp4", [3])
    settings = ["--set", "engine.timeout=12", "--set", "engine.retries=0"]
    assert cli.main(["curate", *QUICK, *settings, str(tmp_path / "videos"), str(tmp_path / "set")]) == 3
    assert statuses(tmp_path / "set") == {"sleeper.mp4": "failed", "z.mp4": "ok"}
    assert "came no step further in 12 seconds" in capsys.readouterr().err


def test_a_full_disk_is_no_fault_of_a_source_and_loses_nothing(traps, tmp_path, monkeypatch, capsys):
    full = tmp_path / "full"
    monkeypatch.setenv("FULL", str(full))
    film(tmp_path / "videos" / "a.mp4", [1])
    arguments = ["curate", *QUICK, str(tmp_path / "videos"), str(tmp_path / "set")]
    full.touch()
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert "No space left on device" in told
    assert "give the same line again" in told
    assert not list((tmp_path / "set" / ".work" / "clips").iterdir())
    full.unlink()
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "set" / "report.json").read_text())["failed"] == []


def test_a_process_that_decodes_reads_no_torch():
    """Which takes seconds and 200 MB of each worker, and is for models alone."""
    line = "import sys, dreamfactory.curation.process, dreamfactory.curation.curate; print('torch' in sys.modules)"
    paths = os.pathsep.join(filter(None, sys.path))
    told = subprocess.run([sys.executable, "-c", line], env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert told.stdout.split() == [b"False"], told.stderr.decode()
