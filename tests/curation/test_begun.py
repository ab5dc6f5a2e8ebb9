"""OUT while others are in it, and while sources change: nobody's work is lost, nothing is mixed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from dreamfactory import cli
from dreamfactory.curation.curate import part

from ..footage import film

QUICK = ["--quiet", "--set", "scenes.detector=content", "--set", "scores.text=none", "--set", "clips.speed=ultrafast"]


@pytest.fixture
def videos(tmp_path) -> Path:
    for number in range(3):
        film(tmp_path / "videos" / f"{number}.mp4", [number], frames=50)
    return tmp_path / "videos"


def curate(*arguments: object) -> int:
    return cli.main(["curate", *QUICK, *map(str, arguments)])


def sources(out: Path) -> dict[str, dict]:
    return {row["source"]: row for row in parquet.read_table(out / "sources.parquet").to_pylist()}


def kept(out: Path) -> list[str]:
    return [row["clip"] for row in parquet.read_table(out / "clips.parquet").to_pylist() if row["kept"]]


def begin(*arguments: object) -> subprocess.Popen:
    line = [sys.executable, "-m", "dreamfactory", "curate", *QUICK, *map(str, arguments)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


def wait_for(there) -> None:
    until = time.monotonic() + 60
    while not there() and time.monotonic() < until:
        time.sleep(0.02)
    assert there()


def test_a_second_start_of_the_same_line_costs_the_first_nothing(tmp_path, capsys):
    film(tmp_path / "videos" / "long.mp4", [1, 2, 3, 4, 5, 6, 7, 8], frames=120)
    out = tmp_path / "set"
    first = begin(tmp_path / "videos", out)
    wait_for(lambda: list(out.glob(".work/tmp/0.*")))
    assert curate(tmp_path / "videos", out) == 2
    assert "is being worked on by another run" in capsys.readouterr().err
    _, told = first.communicate(timeout=120)
    assert first.returncode == 0, told
    assert len(kept(out)) == 8


@pytest.mark.parametrize("change", ["touched", "gone"])
def test_a_source_that_changes_while_a_run_works_costs_itself_at_most(videos, tmp_path, change):
    out = tmp_path / "set"
    run = begin(videos, out)
    wait_for(lambda: list(out.glob(".work/tmp/0.*")) or list(out.glob(".work/sources/*.json")))
    for file in videos.iterdir():
        os.utime(file) if change == "touched" else file.unlink()
    _, told = run.communicate(timeout=120)
    assert run.returncode in ((0,) if change == "touched" else (0, 3))  # 3: those that it had not opened yet
    assert "Traceback" not in told
    assert len(sources(out)) == 3


def test_an_array_agrees_on_sources_that_were_touched(videos, tmp_path):
    assert curate(videos, tmp_path / "set", "--shard", "1/2") == 0
    for file in videos.iterdir():
        os.utime(file)
    curate(videos, tmp_path / "set", "--shard", "2/2")
    assert curate(videos, tmp_path / "set") == 0
    assert len(kept(tmp_path / "set")) == 3
    assert {part(f"{k}.mp4", 2) for k in range(20)} == {0, 1}


def test_jobs_that_end_together_make_one_set(videos, tmp_path):
    jobs = [begin(videos, tmp_path / "set", "--shard", f"{k}/3") for k in (1, 2, 3)]
    for job in jobs:
        _, told = job.communicate(timeout=120)
        assert job.returncode == 0, told
    assert len(kept(tmp_path / "set")) == 3


def test_jobs_that_begin_together_agree_on_the_settings(videos, tmp_path):
    jobs = [begin(videos, tmp_path / "set", "--shard", f"{k}/2", "--set", f"clips.crf={17 + k}") for k in (1, 2)]
    told = [job.communicate(timeout=120)[1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 2]
    assert "holds a set with another clips.crf" in "".join(told)


def test_a_job_leaves_what_others_have_to_make_anew(videos, tmp_path):
    out, none = tmp_path / "set", ["--set", "clips.encode=kept", "--set", "filters.static.min=100"]
    for k in (1, 2):
        assert curate(videos, out, "--shard", f"{k}/2", *none) == 0
    assert not kept(out)
    for k in (2, 1):
        assert curate(videos, out, "--shard", f"{k}/2", "--set", "clips.encode=kept") == 0
    assert len(kept(out)) == 3


def test_what_there_was_stays_where_it_cannot_be_made_anew(videos, tmp_path):
    out, some = tmp_path / "set", ["--set", "clips.encode=kept", "--set", "filters.one.column=clip"]
    first = min(row["clip"] for row in _rows(videos, tmp_path / "all"))
    assert curate(videos, out, *some, "--set", f"filters.one.equals={first}") == 0
    assert kept(out) == [first]
    for file in videos.iterdir():  # the same to whoever looks at names, sizes and times
        state = file.stat()
        file.write_bytes(bytes(state.st_size))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    curate(videos, out, "--set", "clips.encode=kept")
    assert kept(out) == [first]
    reasons = [row["reason"] for row in parquet.read_table(out / "clips.parquet").to_pylist() if not row["kept"]]
    assert reasons == ["not_encoded"] * 2
    notes = " ".join(json.loads((out / "report.json").read_text())["notes"])
    assert "sources that could not be read again: 2 clips" in notes


def _rows(videos: Path, out: Path) -> list[dict]:
    assert curate(videos, out) == 0
    return parquet.read_table(out / "clips.parquet").to_pylist()


@pytest.mark.parametrize("name", ["rows.json", "0000.mp4", "0000.strip.jpg"])
def test_what_is_damaged_is_made_again(videos, tmp_path, name):
    out = tmp_path / "set"
    assert curate(videos, out) == 0
    before = (out / "clips.parquet").read_bytes()
    victim = next(out.glob(f".work/clips/*/*/{name}"))
    victim.write_bytes(b"") if name == "rows.json" else victim.unlink()
    assert curate(videos, out) == 0
    assert (out / "clips.parquet").read_bytes() == before


@pytest.mark.parametrize("text", ["{}", "[]", "3", "", '{"sources": 1, "rows": 2, "versions": 3}'])
def test_a_damaged_beginning_is_a_sentence(videos, tmp_path, capsys, text):
    out = tmp_path / "set"
    (out / ".work").mkdir(parents=True)
    (out / ".work" / "run.json").write_text(text)
    assert curate(videos, out) == 2
    assert "is damaged; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["x" * 300, "/proc/nobody/set"])
def test_places_where_no_folder_can_be_are_a_sentence(videos, tmp_path, capsys, out):
    assert curate(videos, tmp_path / out) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_rows_of_copies_do_not_depend_on_which_was_read(tmp_path):
    """Cut short, so that something is said of them."""
    whole = film(tmp_path / "whole.mkv", [1, 2], frames=60)
    data = whole.read_bytes()
    tables = []
    for order in ("ab", "ba"):
        for name in order:
            (tmp_path / order / "videos").mkdir(parents=True, exist_ok=True)
            (tmp_path / order / "videos" / f"{name}.mkv").write_bytes(data[:-200])
        out = tmp_path / order / "set"
        for k in (1, 2) if order == "ab" else (2, 1):
            curate(tmp_path / order / "videos", out, "--shard", f"{k}/2")
        tables.append((out / "sources.parquet").read_bytes())
    assert tables[0] == tables[1]


def test_the_words_of_a_copy_are_the_clips_too(tmp_path):
    film(tmp_path / "videos" / "a.mp4", [1])
    shutil.copy(tmp_path / "videos" / "a.mp4", tmp_path / "videos" / "b.mp4")
    (tmp_path / "videos" / "b.txt").write_text("a pan over hills")
    assert curate(tmp_path / "videos", tmp_path / "set", "--set", "captions.kind=column") == 0
    rows = parquet.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    assert {row["caption"] for row in rows} == {"a pan over hills"}


def test_an_address_that_nobody_answers_at_is_told_soon(videos, tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert curate(videos, tmp_path / "set", "--runner", "ray") == 2
    assert "RAY_ADDRESS 127.0.0.1:9 cannot be reached" in capsys.readouterr().err
