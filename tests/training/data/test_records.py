"""What a user's folder, table or tar shards are read as, and why files are left out."""

import io
import json
import sys
import tarfile

import pytest

from dreamfactory.errors import LibraryError, TrainingError
from dreamfactory.training.config import SourceConfig
from dreamfactory.training.data.read import read_records
from dreamfactory.training.data.shards import expand

from ...there import there


def put(root, **files):
    """Files by name (a__b is a/b, a double dot a dot): bytes as they are, text as UTF-8, other things as JSON."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)


def read(path, **options):
    return read_records("mine", SourceConfig(path=str(path), **options))[:2]


def captions(records):
    return {r.name: (r.media, r.text, r.motion) for r in records}


def reasons(left_out):
    return {left.file: left.reason for left in left_out}


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_pairs_files_with_the_captions_beside_them(tmp_path):
    put(tmp_path, b_dot_mp4=b"", b_dot_txt="  a red\n\n ball  ", b_dot_motion_dot_txt="it rolls")
    put(tmp_path, a_dot_PNG=b"", a_dot_txt="a house\n", deep__er__c_dot_mov=b"", deep__er__c_dot_json={"caption": "c"})
    put(tmp_path, d_dot_webm=b"", d_dot_json={"text": "d", "motion": " d  moves "}, notes_dot_txt="no video's")
    put(tmp_path, _dot_hidden__x_dot_mp4=b"", _dot_hidden__x_dot_txt="hidden")
    records, left_out = read(tmp_path)
    assert captions(records) == {
        "a.PNG": ("image", "a house", "a house"),
        "b.mp4": ("video", "a red ball", "it rolls"),
        "d.webm": ("video", "d", "d moves"),
        "deep/er/c.mov": ("video", "c", "c"),
    }
    assert [r.name for r in records] == sorted(r.name for r in records)
    assert reasons(left_out) == {
        ".hidden/x.mp4": "hidden: its name or folder begins with a dot",
        ".hidden/x.txt": "hidden: its name or folder begins with a dot",
        "notes.txt": "caption alone: no video or image of its name lies beside it",
    }


def test_files_without_a_caption_are_left_out_with_the_reason(tmp_path):
    put(tmp_path, good_dot_mp4=b"", good_dot_txt="good", bare_dot_mp4=b"", blank_dot_mp4=b"", blank_dot_txt=" \n")
    put(tmp_path, odd_dot_mp4=b"", odd_dot_json={"title": "x"}, torn_dot_mp4=b"", torn_dot_json='{"text": ')
    put(tmp_path, latin_dot_mp4=b"", latin_dot_txt="caf\xe9".encode("latin-1"), good_dot_jpg=b"")
    records, left_out = read(tmp_path)
    assert [r.name for r in records] == ["good.mp4"]
    assert reasons(left_out) == {
        "bare.mp4": "no caption: there is no bare.txt or bare.json",
        "blank.mp4": "no caption: blank.txt is empty",
        "odd.mp4": 'no caption: odd.json has no "text" or "caption"',
        "torn.mp4": "no caption: torn.json is no valid JSON",
        "latin.mp4": "no caption: latin.txt is no UTF-8 text",
        "good.jpg": "thumbnail: a video of the same name lies beside it",
    }


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path, away__a_dot_mp4=b"", away__a_dot_txt="a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "back").symlink_to(tmp_path / "data")
    records, _ = read(tmp_path / "data")
    assert [r.name for r in records] == ["link/a.mp4"]


def test_a_folder_with_nothing_usable_is_one_sentence(tmp_path):
    put(tmp_path, a_dot_mp4=b"", b_dot_mp4=b"")
    with pytest.raises(TrainingError, match=r"sources.mine: .* expected videos .* 2 were left out.*a.mp4.*no a.txt"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="nothing of that kind is there"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("missing", {}, "does not exist"),
        ("clip.mp4", {}, r"is a \.mp4; give a folder"),
        ("clip.mp4", {"kind": "folder"}, "is no folder"),
        (".", {"kind": "metadata"}, "has no metadata file"),
        ("*.tar", {}, "matches no .tar shard"),
    ],
)
def test_a_path_of_another_kind_is_one_sentence(tmp_path, path, options, message):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(TrainingError, match=message):
        read(tmp_path / path, **options)


# -- tables --------------------------------------------------------------------------------------------------------

ROWS = [
    {"file_name": "clips/a.mp4", "text": " a  cat ", "motion": "it jumps"},
    {"file_name": "b.jpg", "text": "b", "motion": None},
    {"file_name": "gone.mp4", "text": "gone"},
    {"file_name": "c.mp4", "text": ""},
    {"file_name": "c.flac", "text": "a sound"},
]


def table(root, kind, rows=ROWS):
    put(root, clips__a_dot_mp4=b"", b_dot_jpg=b"", c_dot_mp4=b"", c_dot_flac=b"")
    path = root / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\nnot json\n")
    elif kind == "csv":
        lines = [",".join(str(row.get(c) or "") for c in ("file_name", "text", "motion")) for row in rows]
        path.write_text("\ufefffile_name,text,motion\n" + "\n".join(lines) + "\n", "utf-8")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("by", ["file", "folder"])
def test_tables_name_files_and_captions(tmp_path, kind, by):
    path = table(tmp_path, kind)
    records, left_out = read(path if by == "file" else tmp_path)
    assert captions(records) == {"clips/a.mp4": ("video", "a cat", "it jumps"), "b.jpg": ("image", "b", "b")}
    assert records[0].path == tmp_path / "clips" / "a.mp4"
    said = reasons(left_out)
    assert said["gone.mp4"].startswith("missing file: ")
    assert said["c.mp4"].startswith("no caption: ")
    assert said["c.flac"].startswith("no video or image: ")
    assert ("metadata.jsonl:7" in said) == (kind == "jsonl")


def test_columns_may_have_other_names(tmp_path):
    rows = [{"file_name": "b.jpg", "words": "w", "verbs": "v"}, {"file_name": "c.mp4", "caption": "c"}]
    records, _ = read(table(tmp_path, "jsonl", rows), text_column="words", motion_column="verbs")
    assert [(r.text, r.motion) for r in records] == [("w", "v"), ("c", "c")]


def test_a_table_without_file_names_says_which_columns_it_has(tmp_path):
    with pytest.raises(TrainingError, match="no file_name, only path, text"):
        read(table(tmp_path, "jsonl", [{"path": "b.jpg", "text": "b"}]))


def test_a_damaged_table_is_one_sentence(tmp_path):
    pytest.importorskip("pyarrow")
    put(tmp_path, metadata_dot_parquet=b"PAR1 no more")
    with pytest.raises(TrainingError, match="no readable parquet"):
        read(tmp_path)
    put(tmp_path, latin_dot_csv="file_name,text\nb.jpg,caf\xe9\n".encode("latin-1"))
    with pytest.raises(TrainingError, match=r"latin.csv cannot be read"):
        read(tmp_path / "latin.csv")


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    put(tmp_path, metadata_dot_parquet=b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LibraryError, match=r"pip install pyarrow, or save it as \.jsonl\.$"):
        read(tmp_path)


# -- shards --------------------------------------------------------------------------------------------------------


def shard(path, members, keep=None):
    """A tar of members by name, cut to its first `keep` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    if keep is not None:
        path.write_bytes(path.read_bytes()[:keep])
    return path


SAMPLES = {
    "a/0001.mp4": b"first video",
    "a/0001.txt": b"one\n",
    "a/0002.json": b'{"caption": "two", "motion": "two moves"}',
    "a/0002.jpg": b"thumbnail",
    "a/0002.webm": b"second",
    "b/0001.png": b"picture",
    "b/0001.txt": b"three",
    "b/0001.motion.txt": b"stays",
    "b/0003.mp4": b"captionless",
    "b/0004.txt": b"a caption for nothing",
}


def test_members_of_shards_are_found_where_they_lie(tmp_path):
    path = shard(tmp_path / "s" / "000000.tar", SAMPLES)
    shard(tmp_path / "s" / "000001.tar", {"x.mp4": b"video x", "x.txt": b"x"})
    records, left_out = read(tmp_path / "s")
    assert captions(records) == {
        "000000.tar/a/0001.mp4": ("video", "one", "one"),
        "000000.tar/a/0002.webm": ("video", "two", "two moves"),
        "000000.tar/b/0001.png": ("image", "three", "stays"),
        "000001.tar/x.mp4": ("video", "x", "x"),
    }
    content = path.read_bytes()
    for record in records[:3]:
        member = record.name.removeprefix("000000.tar/")
        assert content[record.offset : record.offset + there(record.size)] == SAMPLES[member]
    assert reasons(left_out) == {
        "000000.tar/b/0003.mp4": "no caption: there is no b/0003.txt or b/0003.json",
        "000000.tar/b/0004.txt": "no video or image: the sample has none",
        "000000.tar/a/0002.jpg": "thumbnail: the sample is a video",
    }


def test_patterns_stand_for_shards(tmp_path):
    for i in (8, 9, 10, 11):
        shard(tmp_path / f"s{i:03}.tar", {f"{i}.mp4": b"v", f"{i}.txt": b"t"})
    for pattern in ("s{008..010}.tar", "s{008,009,010}.tar", "s0{0{8,9},10}.tar"):
        records, left_out = read(tmp_path / pattern)
        assert sorted(r.name for r in records) == [f"s{i:03}.tar/{i}.mp4" for i in (8, 9, 10)]
        assert left_out == []
    assert len(read(tmp_path / "s*.tar")[0]) == 4
    assert len(read(tmp_path / "s008.tar")[0]) == 1
    assert expand("x/{9..11}.tar") == ["x/9.tar", "x/10.tar", "x/11.tar"]
    assert expand("x/{11..9}.tar") == ["x/11.tar", "x/10.tar", "x/9.tar"], "as a shell has it"
    assert expand(r"C:\x\{a,b}.tar") == [r"C:\x\a.tar", r"C:\x\b.tar"]
    assert expand("x/one{.tar") == ["x/one{.tar"]
    records, left_out = read(tmp_path / "s{010..013}.tar")
    assert len(records) == 2
    assert [left.file for left in left_out] == ["s012.tar", "s013.tar"]


@pytest.mark.parametrize("cut", ["inside a member", "inside a header", "without its end"])
def test_a_shard_that_is_cut_short_is_used_as_far_as_it_goes(tmp_path, cut):
    samples = {f"{i}.{end}": bytes([65 + i]) * 700 for i in range(4) for end in ("txt", "mp4")}
    whole = 8 * (512 + 1024)
    keep = {"inside a member": whole - 600, "inside a header": whole - 1300, "without its end": whole}[cut]
    records, left_out = read(shard(tmp_path / "s.tar", samples, keep))
    assert [r.name for r in records] == [f"s.tar/{i}.mp4" for i in range(4 if cut == "without its end" else 3)]
    assert reasons(left_out)["s.tar"].startswith("cut short: ")


def test_what_is_no_tar_is_left_out(tmp_path):
    shard(tmp_path / "a.tar", {"x.mp4": b"v", "x.txt": b"t"})
    put(tmp_path, b_dot_tar="no archive at all", c_dot_tar=b"")
    records, left_out = read(tmp_path)
    assert len(records) == 1
    assert {left.file for left in left_out} == {"b.tar", "c.tar"}
    assert all(left.reason.startswith("no shard: ") for left in left_out)


def test_hidden_folders_of_a_folder_of_shards_are_told_once_each_and_hold_no_shards(tmp_path):
    """A set that is being made keeps its work in one."""
    shard(tmp_path / "a.tar", {"x.mp4": b"v", "x.txt": b"t"})
    shard(tmp_path / "deep" / "b.tar", {"x.mp4": b"v", "x.txt": b"t"})
    for folder in (".work", ".work/.deeper/still", "deep/.cache"):
        shard(tmp_path / folder / "c.tar", {"y.mp4": b"v", "y.txt": b"t"})
        for i in range(3):
            (tmp_path / folder / f"{i}.done").touch()
    put(tmp_path, report_dot_html="x", clips_dot_parquet="x", _dot_note="x")
    records, left_out = read(tmp_path)
    assert [r.name for r in records] == ["a.tar/x.mp4", "deep/b.tar/x.mp4"]
    assert {file: why.partition(":")[0] for file, why in reasons(left_out).items()} == {
        ".work": "hidden",
        "deep/.cache": "hidden",
        "report.html": "beside shards",
        "clips.parquet": "beside shards",
        ".note": "beside shards",
    }
    assert len(left_out) == 5


def test_a_folder_of_shards_may_itself_lie_in_a_hidden_one(tmp_path):
    shard(tmp_path / ".sets" / "mine" / "a.tar", {"x.mp4": b"v", "x.txt": b"t"})
    records, left_out = read(tmp_path / ".sets" / "mine")
    assert ([r.name for r in records], left_out) == (["a.tar/x.mp4"], [])


def test_a_folder_may_be_called_with_braces(tmp_path):
    (tmp_path / "clips{1,2}").mkdir()
    shard(tmp_path / "clips{1,2}" / "s.tar", {"1.mp4": b"v", "1.txt": b"t"})
    assert [record.name for record in read(tmp_path / "clips{1,2}")[0]] == ["s.tar/1.mp4"]
