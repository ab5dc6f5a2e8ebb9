"""`dreamfactory curate` from end to end: what it makes, that it makes the same however it is done, and bad input."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
from pyarrow import parquet

from dreamfactory import cli

from ..footage import film

QUICK = ["--quiet", "--set", "scenes.detector=content", "--set", "scores.text=none", "--set", "clips.speed=ultrafast"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Five sources: three films, of which one is there twice, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    film(folder / "one.mp4", [1, 2])
    film(folder / "deep" / "two.mkv", [3, 4, 5], frames=52)
    film(folder / "three.mp4", [6])
    shutil.copy(folder / "three.mp4", folder / "again.mp4")
    (folder / "none.mp4").write_bytes(b"no video at all, whatever it is called" * 99)
    return folder


def curate(*arguments: object) -> int:
    return cli.main(["curate", *QUICK, *map(str, arguments)])


@pytest.fixture(scope="module")
def made(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    assert curate(videos, out) == 3  # one source failed
    return out


def rows(out: Path, name: str = "clips") -> list[dict]:
    return parquet.read_table(out / f"{name}.parquet").to_pylist()


def the_set(out: Path) -> dict[str, str]:
    """Its shards and tables, by digest."""
    files = [*out.glob("clips-*.tar"), *out.glob("*.parquet")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_source_is_accounted_for(made):
    sources = {row["source"]: row for row in rows(made, "sources")}
    assert {name: row["status"] for name, row in sources.items()} == {
        "again.mp4": "ok", "deep/two.mkv": "ok", "none.mp4": "failed", "one.mp4": "ok", "three.mp4": "copy",
    }  # fmt: skip
    assert "cannot be opened as a video" in sources["none.mp4"]["problem"]
    assert sources["three.mp4"]["problem"] == "the same bytes as again.mp4"
    told = json.loads((made / "report.json").read_text())
    assert (told["sources"], told["scenes"], told["clips"]) == (5, 6, 6)
    assert [one["source"] for one in told["failed"]] == ["none.mp4"]
    assert told["kept"] + sum(told["reasons"].values()) == told["clips"]


def test_clips_begin_and_end_where_the_scenes_do(made):
    found = {(row["source"], row["scene"]): (row["start"], row["end"], row["frames"]) for row in rows(made)}
    assert found["one.mp4", 0] == (0.0, 2.5, 60)
    assert found["one.mp4", 1] == (2.5, 5.0, 60)
    assert [found["deep/two.mkv", k][2] for k in range(3)] == [52, 52, 52]


def test_a_shard_holds_video_and_row_of_each_kept_clip(made):
    kept = {row["clip"]: row for row in rows(made) if row["kept"]}
    assert kept
    with tarfile.open(made / "clips-000000.tar") as tar:
        names = tar.getnames()
        assert {name.partition(".")[0] for name in names} == set(kept)
        assert names == sorted(names, key=lambda name: name.partition(".")[0])
        first = names[0].partition(".")[0]
        member = tar.extractfile(f"{first}.json")
        assert member is not None
        told = json.load(member)
        assert told["source"] == kept[first]["source"]
        assert tar.getmember(f"{first}.mp4").size == kept[first]["bytes"]


def test_the_same_line_again_changes_nothing_and_decodes_nothing(videos, made):
    before = the_set(made)
    times = {file: file.stat().st_mtime_ns for file in made.glob("clips-*.tar")}
    assert curate(videos, made) == 3
    assert the_set(made) == before
    assert {file: file.stat().st_mtime_ns for file in made.glob("clips-*.tar")} == times


@pytest.mark.parametrize("runner", ["processes", "ray"])
def test_every_runner_makes_the_same_set_to_the_byte(videos, made, tmp_path, runner):
    if runner == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    assert curate(videos, tmp_path / "set", "--runner", runner, "--set", "engine.workers=2") == 3
    assert the_set(tmp_path / "set") == the_set(made)


@pytest.mark.parametrize("parts", [["1/3", "2/3", "3/3"], ["1/2", "0/2"]])
def test_jobs_of_an_array_make_the_same_set_to_the_byte(videos, made, tmp_path, parts):
    for part in parts:
        curate(videos, tmp_path / "set", "--shard", part)
    assert the_set(tmp_path / "set") == the_set(made)


def test_sources_that_are_gone_do_not_matter_to_other_filters(videos, made, tmp_path):
    """Filters are predicates on rows: clips they no longer reject come back without any video."""
    sources, out = tmp_path / "videos", tmp_path / "set"
    shutil.copytree(videos, sources)
    curate(sources, out, "--set", "filters.static.min=100")
    assert not any(row["kept"] for row in rows(out))
    for file in sources.rglob("*.m*"):  # of the same size and time, and no video
        size, stat = file.stat().st_size, file.stat()
        file.write_bytes(bytes(size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    curate(sources, out)
    assert the_set(out)["clips-000000.tar"] == the_set(made)["clips-000000.tar"]


def test_clips_that_were_not_encoded_are_when_they_are_wanted(videos, made, tmp_path):
    out = tmp_path / "set"
    curate(videos, out, "--set", "clips.encode=kept", "--set", "filters.static.min=100")
    assert not list((out / ".work").rglob("*.mp4"))
    curate(videos, out, "--set", "clips.encode=kept")
    assert the_set(out) == the_set(made)


def test_whoever_is_killed_whenever_the_set_is_the_same(videos, made, tmp_path):
    out = tmp_path / "set"
    line = [sys.executable, "-m", "dreamfactory", "curate", str(videos), str(out), *QUICK, "--runner", "processes"]
    for wait in (0.6, 1.4, 2.2, 3.0, 3.8, 4.6):
        run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert subprocess.run(line, capture_output=True).returncode == 3
    assert the_set(out) == the_set(made)
    assert not list((out / ".work" / "tmp").iterdir())
    assert not list(out.rglob("*.dreamfactory.tmp"))


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_ends_at_once_with_its_children(videos, tmp_path, sent, code):
    out = tmp_path / "set"
    line = [sys.executable, "-m", "dreamfactory", "curate", str(videos), str(out), *QUICK, "--runner", "processes"]
    run = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not list(out.glob(".work/tmp/*")):  # until something is being made
        time.sleep(0.05)
        assert run.poll() is None
    run.send_signal(sent)
    _, told = run.communicate(timeout=20)  # which waits for whoever holds its standard error
    assert run.returncode == code
    assert "nothing half-written was left" in told
    assert "Traceback" not in told


def test_duplicates_may_be_kept_and_are_told_all_the_same(tmp_path):
    film(tmp_path / "videos" / "a.mp4", [1])
    film(tmp_path / "videos" / "b.mkv", [1], frames=56)
    curate(tmp_path / "videos", tmp_path / "set")
    assert [row["kept"] for row in rows(tmp_path / "set")].count(True) == 1
    curate(tmp_path / "videos", tmp_path / "set", "--set", "duplicates.remove=false")
    assert [row["kept"] for row in rows(tmp_path / "set")] == [True, True]
    assert [row["duplicate_of"] for row in rows(tmp_path / "set")].count(None) == 1


def test_only_shards_of_the_set_are_taken_away(videos, tmp_path):
    out = tmp_path / "set"
    curate(videos / "one.mp4", out, "--set", "shards.clips=1")
    before = the_set(out)
    (out / "clips-mine.tar").write_bytes(b"mine")
    assert (out / "clips-000001.tar").exists()
    curate(videos / "one.mp4", out)
    assert not (out / "clips-000001.tar").exists()
    assert (out / "clips-mine.tar").read_bytes() == b"mine"
    (out / "clips-mine.tar").unlink()
    curate(videos / "one.mp4", out, "--set", "shards.clips=1")
    assert the_set(out) == before


def test_a_shard_that_was_cut_short_is_written_again(videos, tmp_path):
    out = tmp_path / "set"
    curate(videos / "one.mp4", out)
    before, shard = the_set(out), out / "clips-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    curate(videos / "one.mp4", out)
    assert the_set(out) == before
    content = shard.read_bytes()
    shard.write_bytes(bytes(len(content)))  # as long, and something else
    curate(videos / "one.mp4", out)
    assert the_set(out) == before


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(capsys, *arguments: object) -> str:
    assert curate(*arguments) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    return told


def test_another_set_is_not_written_over(videos, made, tmp_path, capsys):
    film(tmp_path / "others" / "x.mp4", [9])
    before = the_set(made)
    assert "holds the set that is made of" in refused(capsys, tmp_path / "others", made)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    assert "holds dear.txt" in refused(capsys, videos, tmp_path / "letters")
    assert the_set(made) == before


def test_settings_that_made_the_rows_stay(videos, made, capsys):
    told = refused(capsys, videos, made, "--set", "clips.min_seconds=1")
    assert "another clips.min_seconds (2.0, here 1.0)" in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["clips.min_seconds=30"], r"clips.min_seconds 30 is above clips.max_seconds 20"),
        (["clips.crf=99"], "clips.crf is 99; expected 0 to 51"),
        (["clips.speed=warp"], "clips.speed is 'warp'; expected one of ultrafast"),
        (["filters.static.column=moton"], "did you mean 'motion'"),
        (["filters.static.min=2", "filters.static.max=1"], "min 2 is above max 1"),
        (["captions.kind=transformers"], "captions.path"),
        (["clip.crf=3"], "unknown setting clip. Did you mean 'clips'"),
        (["engine.runner=cloud"], "engine.runner is 'cloud'"),
    ],
)
def test_settings_that_cannot_be_cost_a_sentence(videos, tmp_path, capsys, settings, told):
    extra = [word for setting in settings for word in ("--set", setting)]
    assert told in refused(capsys, videos, tmp_path / "set", *extra)
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_of_files_do_not_reach_the_terminal_as_they_are(tmp_path, capsys):
    """They may clear the screen, or look like a line of ours."""
    folder = tmp_path / "a\x1b[2Jb"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "c\nfailed: \x1b]0;d\x07\u202e.mp4").write_bytes(b"e" * 999)
    assert curate(folder, tmp_path / "set") == 3
    told = capsys.readouterr().err
    assert not set("\x1b\x07\u202e") & set(told)
    assert sum(line.startswith("failed: ") for line in told.splitlines()) == 1
    assert all(line.startswith(("failed: ", "note: ")) for line in told.splitlines())
    assert r"a\x1b[2Jb" in told
    assert r"a\x1b[2Jb" in refused(capsys, folder / "gone", tmp_path / "set 2")


def test_no_videos(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refused(capsys, tmp_path / "empty", tmp_path / "set")
    refused(capsys, tmp_path / "nowhere", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_all_sources_failed(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"a" * 999)
    assert curate(tmp_path / "videos", tmp_path / "set") == 3
    told = json.loads((tmp_path / "set" / "report.json").read_text())
    assert (told["sources"], told["clips"], len(told["failed"])) == (1, 0, 1)
    assert (tmp_path / "set" / "report.html").exists()


def test_clips_are_taken_as_they_are_stored_where_key_frames_allow(tmp_path):
    """Frames of the source, to the bit, from a key frame to the one before the next scene's."""
    source = film(tmp_path / "videos" / "keys.mp4", [1, 2, 3], frames=72, keys=24)
    assert curate(source.parent, tmp_path / "set", "--set", "clips.method=copy") == 0
    truth = pixels(source)
    found = rows(tmp_path / "set")
    assert [row["frames"] for row in found] == [72, 72, 72]
    for row in found:
        file = next((tmp_path / "set" / ".work").rglob(f"{row['source_id']}/{row['clip'][-4:]}.mp4"))
        start = round(row["start"] * 24)
        assert (pixels(file) == truth[start : start + row["frames"]]).all()


def pixels(path: Path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)])


# -- words ------------------------------------------------------------------------------------------------------------


def test_captions_and_categories_of_the_users_table(videos, tmp_path):
    table = videos / "table.jsonl"
    told = [
        {"file_name": "one.mp4", "caption": "a walk", "category": "travel"},
        {"file_name": "deep/two.mkv", "caption": "", "category": "news"},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in told))
    settings = ["--set", "captions.kind=column", "--set", "categories.kind=column", "--set", "filters.watermark=none"]
    assert curate(table, tmp_path / "set", *settings) == 0
    said = {(row["source"], row["caption"], row["category"]) for row in rows(tmp_path / "set") if row["kept"]}
    assert said == {("one.mp4", "a walk", "travel"), ("deep/two.mkv", None, "news")}
    with tarfile.open(tmp_path / "set" / "clips-000000.tar") as tar:
        texts = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".txt")]  # pyright: ignore
    assert set(texts) == {b"a walk"}


def test_a_caption_is_asked_for_once(videos, tmp_path):
    """By a command, whose calls are counted; clips that come later are asked for then."""
    script, calls, out = tmp_path / "say.py", tmp_path / "calls", tmp_path / "set"
    script.write_text(f"import sys; open({str(calls)!r}, 'a').write('x'); print('seen', sys.argv[1][-8:])")
    command = json.dumps([sys.executable, str(script), "{image}"])
    settings = [
        "--set",
        "captions.kind=command",
        "--set",
        f"captions.command={command}",
        "--set",
        "filters.watermark=none",
    ]
    curate(videos, out, *settings, "--set", "filters.long.column=scene", "--set", "filters.long.max=0")
    assert len(calls.read_text()) == sum(row["kept"] for row in rows(out)) == 3
    curate(videos, out, *settings)
    kept = [row for row in rows(out) if row["kept"]]
    assert len(calls.read_text()) == len(kept) == 6
    assert {row["caption"] for row in kept} == {f"seen {k:04d}.jpg" for k in range(3)}


def command(tmp_path: Path, code: str, *more: str) -> list[str]:
    """Settings of a captioner that counts its calls in a file; `k` is the clip's number in its source."""
    (tmp_path / "say.py").write_text(
        f"import sys; open({str(tmp_path / 'calls')!r}, 'a').write('x'); k = int(sys.argv[1][-8:-4]); {code}"
    )
    line = json.dumps([sys.executable, str(tmp_path / "say.py"), "{image}"])
    given = ["captions.kind=command", f"captions.command={line}", "filters.watermark=none", *more]
    return [word for setting in given for word in ("--set", setting)]


def test_a_clip_without_a_caption_costs_no_other_its_own(videos, tmp_path, capsys):
    """What failed is told, and asked for again the next time; what was said is kept."""
    table, out, calls = videos / "two.jsonl", tmp_path / "set", tmp_path / "calls"
    table.write_text('{"file_name": "one.mp4"}\n{"file_name": "deep/two.mkv"}\n')
    settings = command(tmp_path, "sys.exit('no luck') if k == 1 else print('a', k)")
    assert curate(table, out, *settings) == 0
    assert sorted(str(row["caption"]) for row in rows(out)) == ["None", "None", "a 0", "a 0", "a 2"]
    assert "2 clips have no caption" in (said := capsys.readouterr().err)
    assert "no luck" in said
    assert any("no luck" in note for note in json.loads((out / "report.json").read_text())["notes"])
    assert len(calls.read_text()) == 5
    assert curate(table, out, *settings) == 0
    assert len(calls.read_text()) == 7


@pytest.mark.parametrize("film", ["one.mp4", "."])
def test_a_captioner_that_never_says_anything_ends_the_run_soon(videos, tmp_path, capsys, film):
    settings = command(tmp_path, "sys.exit('no luck')")
    told = refused(capsys, videos / film, tmp_path / "set", *settings)
    assert told.endswith("no luck.")
    assert len((tmp_path / "calls").read_text()) <= 4


def test_a_column_that_no_source_has_is_told(videos, tmp_path, capsys):
    table = videos / "misspelt.jsonl"
    table.write_text('{"file_name": "one.mp4", "caption": "a walk"}\n')
    settings = ["--set", "captions.kind=column", "--set", "captions.column=captoin"]
    assert curate(table, tmp_path / "set", *settings) == 0
    assert "No source has a column 'captoin' (captions.column); they have caption." in capsys.readouterr().err
