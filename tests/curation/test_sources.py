"""What SOURCES is read as: every file and every row is a source or passed over with a reason."""

import hashlib
import json
import os
import pickle
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dreamfactory.curation.sources import Listed, content_id, key, read_sources
from dreamfactory.errors import InputError

LONGEST = 1200  # characters of a sentence


def put(root, **files):
    """Files by name (a__b is a/b, _dot_ a dot), of bytes or text."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def encode(path, container):
    """A real video of four frames."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * i, np.uint8), format="rgb24")))
        out.mux(stream.encode())


def labels(path, leave=None):
    return [listed.label for listed in read_sources(path, leave).listed]


def over(path, leave=None):
    """Kinds of reason by label."""
    return {label: why.partition(":")[0] for label, why in read_sources(path, leave).passed_over}


def refusal(path, leave=None):
    with pytest.raises(InputError) as caught:
        read_sources(path, leave)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < LONGEST
    return told


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_the_videos_below_it_by_name_and_by_content(tmp_path):
    put(tmp_path, b_dot_mp4=b"", a__deep__c_dot_MKV=b"garbage", a_dot_webm=b"")
    encode(tmp_path / "named.wrong", "matroska")
    encode(tmp_path / "no_ending", "mp4")
    found = read_sources(tmp_path)
    assert [s.label for s in found.listed] == ["a.webm", "a/deep/c.MKV", "b.mp4", "named.wrong", "no_ending"]
    assert all(s.path == tmp_path / s.label for s in found.listed)
    assert all(s.columns == {} for s in found.listed)
    assert found.passed_over == []


def test_what_is_no_video_is_passed_over_with_a_reason_each(tmp_path):
    put(
        tmp_path, a_dot_mp4=b"", notes_dot_txt="x", data_dot_json="{}", readme_dot_md="# x", code_dot_bin=bytes(5000),
        metadata_dot_csv="file_name\na.mp4\n", old_dot_tar=b"", photo_dot_txt="of the photo", _dot_DS_Store=b"x",
        _dot_git__config="x", _dot_git__deep__movie_dot_mp4=b"", empty=b"",
    )  # fmt: skip
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", "PNG")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert labels(tmp_path) == ["a.mp4"]
    assert over(tmp_path) == {
        ".DS_Store": "hidden", ".git": "hidden", "code.bin": "no video", "data.json": "text", "empty": "no video",
        "gone.mp4": "missing file", "metadata.csv": "table", "notes.txt": "text", "old.tar": "archive",
        "photo.jpg": "picture", "photo.txt": "text", "picture": "picture", "readme.md": "no video",
    }  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipes_and_rings_of_links_are_not_waited_for(tmp_path):
    put(tmp_path, a_dot_mp4=b"")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "ring.mp4").symlink_to(tmp_path / "ring.mp4")
    assert labels(tmp_path) == ["a.mp4"]
    assert over(tmp_path) == {"pipe.mp4": "no regular file", "ring.mp4": "missing file"}


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path, away__a_dot_mp4=b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "back").symlink_to(tmp_path / "data")
    assert labels(tmp_path / "data") == ["link/a.mp4"]


def locked(monkeypatch, folder):
    """Nobody may list a folder; the one who tests may be allowed everything, so it is said in the system's place."""
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    put(tmp_path, a_dot_mp4=b"", locked__b_dot_mp4=b"")
    locked(monkeypatch, tmp_path / "locked")
    found = read_sources(tmp_path)
    assert [s.label for s in found.listed] == ["a.mp4"]
    assert found.passed_over == [("locked", "unreadable folder: Permission denied")]
    (tmp_path / "a.mp4").unlink()
    assert "locked: Permission denied" in refusal(tmp_path)
    locked(monkeypatch, tmp_path)
    assert "cannot be read: Permission denied; give a folder" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_a_file_of_unknown_kind_that_may_not_be_opened_is_not_called_no_video(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may open everything")
    put(tmp_path, a_dot_mp4=b"", secret=b"x")
    (tmp_path / "secret").chmod(0)
    assert over(tmp_path) == {"secret": "unreadable"}


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_no_text_become_labels_that_are(tmp_path):
    odd = tmp_path / "caf\udce9.mp4"
    odd.write_bytes(b"")
    (tmp_path / "caf\udce9.txt").write_text("coffee", "utf-8")
    (tmp_path / "\udcff.bin").write_bytes(b"\0" * 9)
    found = read_sources(tmp_path)
    (listed,) = found.listed
    assert (listed.path, listed.columns) == (odd, {"caption": "coffee"})
    assert all(name.encode() for name in (listed.label, *(label for label, _ in found.passed_over)))
    assert key(listed)


def test_order_does_not_come_from_the_file_system(tmp_path, monkeypatch):
    names = ["b.mp4", "a/z.mp4", "a.mp4", "c/a.mp4", "B.mp4", "notes.md", "a/notes.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before, walk = read_sources(tmp_path), os.walk

    def backwards(*arguments, **options):
        for folder, inner, names in walk(*arguments, **options):
            inner.sort(reverse=True)
            yield folder, inner, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert read_sources(tmp_path) == before
    assert [s.label for s in before.listed] == sorted(name for name in names if name.endswith(".mp4"))


# -- captions beside videos ----------------------------------------------------------------------------------------


def test_captions_beside_videos_come_along(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="  a red\n ball ", b_dot_mov=b"", b_dot_json='{"caption": "b"}')
    put(tmp_path, c_dot_mp4=b"", c_dot_txt=" ", c_dot_json='{"text": "c"}', d_dot_mp4=b"", d_dot_motion_dot_txt="it")
    put(tmp_path, e_dot_mp4=b"", e_dot_txt="Größe".encode("utf-16"), f_dot_mp4=b"")
    found = read_sources(tmp_path)
    assert {s.label: s.columns.get("caption") for s in found.listed} == {
        "a.mp4": "a red ball", "b.mov": "b", "c.mp4": "c", "d.mp4": None, "e.mp4": "Größe", "f.mp4": None,
    }  # fmt: skip
    assert found.passed_over == [("c.txt", "no caption: c.txt is empty")]


def test_captions_that_cannot_be_read_are_told_and_cost_no_video(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="caf\xe9".encode("latin-1"), b_dot_mp4=b"", b_dot_json='{"text": ')
    put(tmp_path, c_dot_mp4=b"", c_dot_json='{"title": "c"}', d_dot_mp4=b"", d_dot_json="[" * 100_000)
    put(tmp_path, deep__e_dot_mp4=b"", deep__e_dot_txt__folder=b"")
    found = read_sources(tmp_path)
    assert [s.columns for s in found.listed] == [{}] * 5
    said = dict(found.passed_over)
    assert said["a.txt"] == "no caption: a.txt is no UTF-8 text"
    assert said["b.json"] == "no caption: b.json is no valid JSON"
    assert said["c.json"] == 'no caption: c.json has no "text" or "caption"'
    assert said["d.json"] == "no caption: d.json is no valid JSON"
    assert said["deep/e.txt"].startswith("no caption: ")
    assert said["deep/e.txt"].endswith(" is a folder, no file")


def test_captions_that_are_no_captions_for_their_length_are_told(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="word " * 300_000, b_dot_mp4=b"", b_dot_txt="word " * 3000)
    put(tmp_path, c_dot_mp4=b"", c_dot_json='{"caption": "' + "x" * 10_000 + '"}')
    found = read_sources(tmp_path)
    assert [len(s.columns.get("caption", "")) for s in found.listed] == [0, 0, 10_000]
    assert dict(found.passed_over) == {
        "a.txt": "no caption: a.txt has more than 1,048,576 bytes",
        "b.txt": "no caption: b.txt has 14,999 characters, more than 10,000",
    }


# -- one video -----------------------------------------------------------------------------------------------------


def test_one_video_is_a_source(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="words", b_dot_mp4=b"")
    assert read_sources(tmp_path / "a.mp4") == ([Listed("a.mp4", tmp_path / "a.mp4", {"caption": "words"})], [])
    encode(tmp_path / "odd", "mp4")
    assert labels(tmp_path / "odd") == ["odd"]


# -- lists ---------------------------------------------------------------------------------------------------------


def test_a_list_names_a_video_a_line(tmp_path):
    put(tmp_path, videos__a_dot_mp4=b"", videos__a_dot_txt="words")
    away = tmp_path / "away.mp4"
    lines = ["# mine", "", "videos/a.mp4", f"  {away}  ", "./gone.mp4", "videos/unknown", "no/folder/x.mp4"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), "utf-8-sig")
    found = read_sources(tmp_path / "list.txt")
    assert {s.label: s.path for s in found.listed} == {
        "videos/a.mp4": tmp_path / "videos" / "a.mp4",
        away.as_posix(): away,
        "gone.mp4": tmp_path / "gone.mp4",
        "videos/unknown": tmp_path / "videos" / "unknown",
        "no/folder/x.mp4": tmp_path / "no" / "folder" / "x.mp4",
    }
    assert [s.label for s in found.listed] == sorted(s.label for s in found.listed)
    assert {s.label: s.columns for s in found.listed if s.columns} == {"videos/a.mp4": {"caption": "words"}}
    assert found.passed_over == []


def test_a_list_is_not_the_caption_of_a_video_of_its_name(tmp_path):
    put(tmp_path, videos_dot_mp4=b"", videos_dot_txt="videos.mp4\n")
    assert read_sources(tmp_path / "videos.txt").listed == [Listed("videos.mp4", tmp_path / "videos.mp4")]


def test_a_list_in_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "list.txt").write_bytes("café.mp4\n".encode("latin-1"))
    assert refusal(tmp_path / "list.txt").endswith("save it as UTF-8.")


@pytest.mark.parametrize("line", ["/", ".", "..", "a\0b.mp4", "x" * 5000 + ".mp4", "https://a.b/c.mp4", "a/../../b"])
def test_whatever_a_line_says_it_is_a_source_of_its_own(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}\na.mp4\n", "utf-8")
    found = read_sources(tmp_path / "list.txt")
    assert len(found.listed) == 2
    assert len({key(s) for s in found.listed}) == 2


# -- tables --------------------------------------------------------------------------------------------------------


def table(root, kind, rows):
    path = root / f"videos.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif kind == "csv":
        cells = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
        path.write_text("\n".join(",".join(line) for line in cells), "utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow, which is not installed")
        parquet = pytest.importorskip("pyarrow.parquet", reason="parquet is read by pyarrow, which is not installed")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["file_name", "path", "video"])
def test_a_table_names_videos_and_brings_its_columns(tmp_path, kind, column):
    put(tmp_path, b_dot_mp4=b"", b_dot_txt="beside", deep__a_dot_mp4=b"", deep__a_dot_txt="beside")
    rows = [
        {"category": "news", column: "deep/a.mp4", "caption": "of the table"},
        {"category": "", column: "b.mp4", "caption": ""},
        {"category": "music", column: "gone.mp4", "caption": ""},
    ]
    found = read_sources(table(tmp_path, kind, rows))
    assert found.listed == [
        Listed("b.mp4", tmp_path / "b.mp4", {"category": "", "caption": "beside"}),
        Listed("deep/a.mp4", tmp_path / "deep" / "a.mp4", {"category": "news", "caption": "of the table"}),
        Listed("gone.mp4", tmp_path / "gone.mp4", {"category": "music", "caption": ""}),
    ]
    assert found.passed_over == []


def test_rows_that_name_nothing_and_files_named_twice_are_passed_over(tmp_path):
    rows = [
        {"file_name": "a.mp4", "n": 1},
        {"file_name": " ", "n": 2},
        {"title": "x"},
        {"file_name": 7},
        {"file_name": "./deep/../a.mp4", "n": 5},
        {"file_name": "still.PNG"},
        {"file_name": None, "path": "b.mp4"},
        {},
    ]
    path = table(tmp_path, "jsonl", rows)
    path.write_text(path.read_text("utf-8") + "no json\n", "utf-8")
    found = read_sources(path)
    assert {s.label: s.columns for s in found.listed} == {"a.mp4": {"n": 1}, "b.mp4": {"file_name": None}}
    said = dict(found.passed_over)
    assert said["videos.jsonl:2"] == "no file: the row's file_name is empty"
    assert said["videos.jsonl:3"] == "no file: the row has no file_name, path or video, only title"
    assert said["videos.jsonl:4"] == "no file: the row's file_name is 7, which is no text"
    assert said["videos.jsonl:5"].startswith("twice: row 1 names ")
    assert said["videos.jsonl:6"].startswith("picture: still.PNG")
    assert said["videos.jsonl:8"].endswith("only nothing")
    assert said["videos.jsonl:9"] == "no row: the line is no JSON object"
    assert len(found.passed_over) == 7


def test_columns_become_plain_values_whatever_a_table_holds(tmp_path):
    row = '{"path": "a.mp4", "t": "x\\ud800", "\\ud800": 1, "big": 99999999999999999999, "nan": NaN, "yes": true, '
    row += '"x": 1.5, "tags": ["a", {"b": null}], "deep": ' + "[" * 300 + "]" * 300 + "}"
    (tmp_path / "a.jsonl").write_text(row, "utf-8")
    (listed,) = read_sources(tmp_path / "a.jsonl").listed
    assert all(v is None or isinstance(v, str | int | float | bool) for v in listed.columns.values())
    assert json.dumps(listed.columns, allow_nan=False, ensure_ascii=False).encode()
    assert listed.columns["yes"] is True
    assert listed.columns["x"] == 1.5
    assert listed.columns["nan"] is None
    assert listed.columns["big"] == "99999999999999999999"
    assert json.loads(listed.columns["tags"]) == ["a", {"b": None}]


def test_times_and_bytes_of_a_parquet_are_plain_too(tmp_path):
    import datetime

    row = {"path": "a.mp4", "day": datetime.date(2020, 2, 3), "thumb": b"\xff\xd8", "score": float("inf")}
    (listed,) = read_sources(table(tmp_path, "parquet", [row])).listed
    assert listed.columns == {"day": "2020-02-03", "thumb": "2 bytes", "score": None}


def test_a_table_whose_columns_are_not_parted_by_commas_is_told_so(tmp_path):
    (tmp_path / "a.csv").write_text("file_name;caption\na.mp4;a walk\nb.mp4;a walk, and a run\n")
    told = refusal(tmp_path / "a.csv")
    assert told.count("its columns are parted by semicolons: save it with commas") == 2


def test_a_column_of_file_names_that_are_no_text_is_told_so(tmp_path):
    assert "the row's file_name is b'a.mp4', which is no text" in refusal(
        table(tmp_path, "parquet", [{"file_name": b"a.mp4"}])
    )
    assert "the row's video is {'path': 'a.mp4'}, which is no text" in refusal(
        table(tmp_path, "parquet", [{"video": {"path": "a.mp4"}}])
    )


@pytest.mark.parametrize("kind", ["date32", "timestamp"])
def test_times_that_no_calendar_has_cost_a_sentence(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow, which is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet is read by pyarrow, which is not installed")
    days = pyarrow.array([2**31 - 1], pyarrow.int32()).cast(pyarrow.date32())
    times = pyarrow.array([2**62], pyarrow.int64()).cast(pyarrow.timestamp("ms"))
    taken = days if kind == "date32" else times
    parquet.write_table(pyarrow.table({"path": ["a.mp4"], "taken": taken}), tmp_path / "a.parquet")
    assert "in its column 'taken' that cannot be read" in (told := refusal(tmp_path / "a.parquet"))
    assert told.endswith("save that column as text, or leave it out.")


# -- OUT and SOURCES in each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["itself", "a link", "a relative path"])
def test_what_lies_in_the_set_is_no_source(tmp_path, monkeypatch, by):
    put(tmp_path, a_dot_mp4=b"", sets__one__clip_dot_mp4=b"", sets__other__b_dot_mp4=b"")
    leave = tmp_path / "sets" / "one"
    if by == "a link":
        leave = tmp_path / "link"
        leave.symlink_to(tmp_path / "sets" / "one")
    elif by == "a relative path":
        monkeypatch.chdir(tmp_path)
        leave = Path("sets/one")
    assert labels(tmp_path, leave) == ["a.mp4", "sets/other/b.mp4"]
    assert over(tmp_path, leave)["sets/one"] == "output"
    (tmp_path / "list.txt").write_text("a.mp4\nsets/one/clip.mp4\nsets/other/b.mp4\n", "utf-8")
    assert labels(tmp_path / "list.txt", leave) == ["a.mp4", "sets/other/b.mp4"]
    assert over(tmp_path / "list.txt", leave) == {"list.txt:2": "output"}
    assert labels(tmp_path, tmp_path / "not there yet") == labels(tmp_path)


def test_sources_that_lie_in_the_set_s_folder_as_a_whole_are_sources(tmp_path):
    put(tmp_path, raw__a_dot_mp4=b"", list_dot_txt="raw/a.mp4")
    assert labels(tmp_path / "raw", tmp_path) == ["a.mp4"]
    assert labels(tmp_path / "list.txt", tmp_path) == ["raw/a.mp4"]
    assert labels(tmp_path / "raw" / "a.mp4", tmp_path) == ["a.mp4"]


def test_a_set_in_the_very_folder_of_its_sources_is_refused(tmp_path):
    put(tmp_path, a_dot_mp4=b"")
    assert refusal(tmp_path, tmp_path).endswith("give the set another folder.")


# -- nothing to curate ---------------------------------------------------------------------------------------------


def test_sources_without_a_video_say_what_was_found_instead(tmp_path):
    assert refusal(tmp_path).endswith("found instead: nothing at all.")
    put(tmp_path, a_dot_jpg=b"", b_dot_png=b"", notes_dot_txt="x", videos_dot_csv="name,url\na,b\nc,d\n")
    told = refusal(tmp_path)
    assert "has no video to curate; give a folder of videos" in told
    assert "2 × picture (a.jpg: " in told
    assert "1 × text (notes.txt: no video of its name lies beside it)" in told
    assert "2 × no file (videos.csv:2: the row has no file_name, path or video, only name, url)" in refusal(
        tmp_path / "videos.csv"
    )
    (tmp_path / "empty.txt").write_text("# nothing yet\n", "utf-8")
    assert refusal(tmp_path / "empty.txt").endswith("found instead: nothing at all.")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone", "does not exist; give a folder of videos"),
        ("still.png", "1 × picture"),
        ("notes.md", "1 × no video"),
        ("a.json", "1 × text"),
        ("shard.tar", "1 × archive"),
        ("latin.csv", "save it as UTF-8"),
        ("a\0b", "cannot be read"),
    ],
)
def test_what_holds_no_videos_is_one_sentence(tmp_path, name, told):
    put(tmp_path, notes_dot_md="x", a_dot_json="{}", shard_dot_tar=b"", latin_dot_csv="\xe9".encode("latin-1"))
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    assert told in refusal(tmp_path / name)


@pytest.mark.parametrize("empty", ["", " "])
def test_a_variable_that_is_not_set_is_not_the_current_folder(tmp_path, monkeypatch, empty):
    put(tmp_path, a_dot_mp4=b"")
    monkeypatch.chdir(tmp_path)
    assert refusal(empty).startswith("SOURCES is empty; give a folder of videos")


def test_a_path_that_goes_on_after_a_file(tmp_path):
    put(tmp_path, a_dot_mp4=b"")
    assert "a.mp4 is a file, no folder; give a folder" in refusal(tmp_path / "a.mp4" / "..")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert "is a pipe, no file or folder" in refusal(tmp_path / "pipe.txt")


# -- which source is which -----------------------------------------------------------------------------------------


def test_a_key_changes_with_name_size_and_time_and_not_with_the_place(tmp_path):
    put(tmp_path, here__a_dot_mp4=b"12345", there__a_dot_mp4=b"12345")
    here, there = (Listed("a.mp4", tmp_path / folder / "a.mp4") for folder in ("here", "there"))
    for listed in (here, there):
        os.utime(listed.path, ns=(0, 10**18))
    first = key(here)
    assert len(first) == 32
    assert int(first, 16) >= 0
    assert key(there) == first
    assert key(Listed("b.mp4", here.path)) != first
    os.utime(here.path, ns=(0, 10**18 + 1))
    assert key(here) != first
    there.path.write_bytes(b"1234")
    os.utime(there.path, ns=(0, 10**18))
    assert key(there) != first
    here.path.unlink()
    assert len(key(here)) == 32
    assert key(here) not in (first, key(there))


def test_a_content_s_name_is_of_its_bytes_alone(tmp_path):
    content = bytes(range(256)) * 10_000  # more than is read at a time
    put(tmp_path, a_dot_mp4=content, b_dot_mkv=content, c_dot_mp4=content[:-1], empty=b"")
    expected = hashlib.blake2b(content, digest_size=20).hexdigest()
    assert content_id(tmp_path / "a.mp4") == content_id(tmp_path / "b.mkv") == expected
    assert len({content_id(tmp_path / n) for n in ("a.mp4", "c.mp4", "empty")}) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_only_of_files_there_is_a_content(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "gone", "/dev/zero"):
        with pytest.raises(OSError, match=r"pipe|folder|device|No such file"):
            content_id(path)


def test_sources_go_from_process_to_process(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="words")
    listed = read_sources(tmp_path).listed
    assert pickle.loads(pickle.dumps(listed)) == listed
    assert len(set(listed)) == 1
