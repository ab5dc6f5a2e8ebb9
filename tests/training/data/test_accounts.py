"""Nothing is left out in silence: of every file in a folder, table or shard it is said whether it is used, holds the
words of another, or why it is neither, and what fails later is added."""

import csv
import json
import os
import shutil
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfactory.training.config import SourceConfig
from dreamfactory.training.data.read import read_records
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run

from ...there import there
from .test_records import SAMPLES, put, reasons, shard
from .test_video_source import CLIP, clip, source


def encode(path, codec, container=None):
    """Six frames of 40x32, 8 a second, in any container."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for picture in clip(1):
            array = (picture.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        out.mux(stream.encode())


def strange_folder(root):
    """Forty files of every sort, with the words of those that have some."""
    root.mkdir()
    videos = {"a.mp4": "libx264", "b.ts": "mpeg2video", "c.mpg": "mpeg1video", "d.mkv": "libx264", "e.avi": "mpeg4"}
    for name, codec in videos.items():
        encode(root / name, codec)
        (root / name).with_suffix(".txt").write_text("words", "utf-8")
    encode(root / "named.wrong", "libx264", "mp4")
    encode(root / "no_ending", "libx264", "matroska")
    still = Image.new("RGB", (40, 32), "red")
    for name, kind in {"f.png": "PNG", "g.tif": "TIFF", "h.jpg": "JPEG", "i.bmp": "BMP", "picture": "PNG"}.items():
        still.save(root / name, kind)
    for name in ("named.wrong", "no_ending", "f.png", "g.tif", "h.jpg", "i.bmp", "picture"):
        (root / name).with_suffix(".txt").write_text("words", "utf-8")
    other = Image.new("RGB", (40, 32), "blue")
    still.save(root / "moves.webp", save_all=True, append_images=[other], duration=100)
    still.save(root / "pages.tif", save_all=True, append_images=[other])
    with wave.open(str(root / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(800))
    for name in ("moves", "pages", "sound"):
        (root / f"{name}.txt").write_text("words", "utf-8")
    put(
        root, notes_dot_md="# notes", list_dot_csv="a,b\n", broken_dot_mp4=b"no video" * 99, broken_dot_txt="words",
        empty_dot_mp4=b"", empty_dot_txt="words", alone_dot_txt="words", _dot_hidden="x", _dot_git__config="x",
        stray_dot_tar=b"", wide_dot_mp4=(root / "a.mp4").read_bytes(),
        wide_dot_txt="Größe".encode("utf-16"), latin_dot_mp4=(root / "a.mp4").read_bytes(),
        latin_dot_txt="caf\xe9".encode("latin-1"), bare_dot_mp4=(root / "a.mp4").read_bytes(), code_dot_bin=bytes(5000),
    )  # fmt: skip
    return root


USED = {
    "a.mp4", "b.ts", "c.mpg", "d.mkv", "e.avi", "named.wrong", "no_ending", "f.png", "g.tif", "h.jpg", "i.bmp",
    "picture", "wide.mp4",
}  # fmt: skip
LEFT = {
    "moves.webp": "several pictures in one file: 2", "pages.tif": "several pictures in one file: 2",
    "sound.wav": "no video or image", "notes.md": "no video or image", "list.csv": "no video or image",
    "code.bin": "no video or image", "broken.mp4": "unreadable", "empty.mp4": "unreadable",
    "alone.txt": "caption alone", "sound.txt": "caption alone", ".hidden": "hidden", ".git/config": "hidden",
    "stray.tar": "tar shard: clips lie beside it", "latin.mp4": "no caption: latin.txt is no UTF-8",
    "bare.mp4": "no caption: there is no bare.txt",
}  # fmt: skip


def test_the_report_of_a_folder_adds_up_to_its_files(tmp_path):
    root = strange_folder(tmp_path / "data")
    files = [p for p in root.rglob("*") if p.is_file()]
    assert len(files) >= 40
    of = source(root)
    report = of.report()
    counts = report["files"]
    assert counts["found"] == len(files)
    assert counts["used"] + counts["captions"] + counts["left_out"] == counts["found"]
    said = reasons(of.left_out)
    assert {item.file.record.name for item in of.items()} == USED
    for name, why in LEFT.items():
        assert said[name].startswith(why), name
    assert {i.file.record.text for i in of.items() if i.file.record.name == "wide.mp4"} == {"Größe"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipes_and_dead_links_are_named_and_not_waited_for(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_txt="a")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = read_records("mine", SourceConfig(path=str(tmp_path)))
    said = reasons(found.left_out)
    assert said["pipe.mp4"].startswith("no regular file")
    assert said["gone.mp4"].startswith("missing file")
    assert found.count == 4


def test_a_stray_tar_does_not_hide_the_clips_beside_it(tmp_path):
    put(tmp_path, deep__a_dot_mp4=b"", deep__a_dot_txt="a", readme_dot_md="x")
    shard(tmp_path / "old.tar", SAMPLES)
    found = read_records("mine", SourceConfig(path=str(tmp_path)))
    assert [r.name for r in found.records] == ["deep/a.mp4"]
    assert "give it as the path of a source of its own" in reasons(found.left_out)["old.tar"]
    (tmp_path / "deep" / "a.mp4").unlink()
    assert len(read_records("mine", SourceConfig(path=str(tmp_path))).records) > 1


def test_a_caption_file_nested_too_deep_is_named(tmp_path):
    put(tmp_path, a_dot_mp4=b"", a_dot_json="[" * 100_000, b_dot_mp4=b"", b_dot_txt="b")
    found = read_records("mine", SourceConfig(path=str(tmp_path)))
    assert [r.name for r in found.records] == ["b.mp4"]
    assert reasons(found.left_out)["a.mp4"] == "no caption: a.json is no valid JSON"


# -- tables --------------------------------------------------------------------------------------------------------


def rows(tmp_path, text, name="metadata.csv", encoding="utf-8", path=None):
    put(tmp_path, a_dot_mp4=b"", b_dot_mp4=b"", c_dot_mp4=b"", beside_dot_mp4=b"")
    (tmp_path / name).write_bytes(text.encode(encoding))
    found = read_records("mine", SourceConfig(path=str(path or tmp_path)))
    return {r.name: r.text for r in found.records}, reasons(found.left_out), found


def test_rows_with_commas_outside_quotes_are_named(tmp_path):
    text = 'file_name,text,motion\na.mp4,a red car, driving fast,it goes\nb.mp4,only this\nc.mp4,"a, b",c\n'
    used, said, found = rows(tmp_path, text)
    assert used == {"c.mp4": "a, b"}
    assert said["metadata.csv:2"] == "no row: 4 cells under 3 columns; put a caption that has commas in quotes"
    assert said["metadata.csv:3"].startswith("no row: 2 cells under 3 columns; write empty ones too")
    for name in ("a.mp4", "b.mp4", "beside.mp4"):
        assert said[name].startswith("not in the table")
    assert found.count == 1 + 2 + 3 + 1


def test_commas_at_the_end_of_a_row_are_no_cells(tmp_path):
    assert rows(tmp_path, "file_name,text\na.mp4,one,,\n")[0] == {"a.mp4": "one"}


def test_pictures_beside_shards_do_not_make_a_folder_of_them(tmp_path):
    """But for clips with words of their own; what lies beside is named."""
    shard(tmp_path / "000.tar", SAMPLES)
    put(tmp_path, preview_dot_jpg=b"x", _dot_thumbs__x_dot_jpg=b"x", _dot_thumbs__x_dot_txt="x")
    found = read_records("mine", SourceConfig(path=str(tmp_path)))
    assert found.records
    assert {r.path.name for r in found.records} == {"000.tar"}
    assert reasons(found.left_out)["preview.jpg"].startswith("beside shards")
    assert found.count == len(SAMPLES) + 2, "the picture and the hidden folder"


def test_a_quote_that_nothing_closes_is_named_with_the_lines_it_swallows(tmp_path):
    used, said, _ = rows(tmp_path, 'file_name,text\na.mp4,fine\nb.mp4,"open\nc.mp4,lost\n')
    assert used == {"a.mp4": "fine"}
    assert said["metadata.csv:3"].startswith("no row: lines 3 to ")
    assert "a quote that nothing closes" in said["metadata.csv:3"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_same_file_twice_and_empty_captions_are_named_with_their_rows(tmp_path, kind):
    lines = [("a.mp4", "one"), ("b.mp4", "  "), ("./a.mp4", "two")]
    text = "file_name,text\n" + "".join(f"{f},{t}\n" for f, t in lines)
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in lines)
    used, said, _ = rows(tmp_path, text, f"metadata.{kind}")
    last = 4 if kind == "csv" else 3
    assert used == {"a.mp4": "one"}
    assert said[f"metadata.{kind}:{last}"] == f"twice: row {last - 2} names a.mp4 already"
    assert f"metadata.{kind}:{last - 1}" in said["b.mp4"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables_are_read_in_the_encodings_that_programs_write(tmp_path, kind, encoding):
    text = "file_name,text\na.mp4,Größe 猫\n" if kind == "csv" else '{"file_name": "a.mp4", "text": "Größe 猫"}\n'
    text = "\ufeff" + text if encoding == "utf-16-le" else text
    assert rows(tmp_path, text, f"metadata.{kind}", encoding)[0] == {"a.mp4": "Größe 猫"}


def test_a_very_long_caption_is_read(tmp_path):
    long = "word " * 100_000
    assert rows(tmp_path, f"file_name,text\na.mp4,{long}\n")[0] == {"a.mp4": long.strip()}


# -- shards --------------------------------------------------------------------------------------------------------


def test_every_member_of_a_shard_is_accounted_for(tmp_path):
    members = SAMPLES | {"a/0001.mkv": b"second", "loose": b"x", "a/.hidden": b"x", "a/0001.npy": b"x"}
    shard(tmp_path / "000.tar", members)
    found = read_records("mine", SourceConfig(path=str(tmp_path)))
    said = reasons(found.left_out)
    assert found.count == len(members)
    videos = {r.name.partition("/")[2] for r in found.records}
    second = next(name for name in ("a/0001.mp4", "a/0001.mkv") if name not in videos)
    assert said[f"000.tar/{second}"].startswith("second video")
    assert said["000.tar/loose"].startswith("no sample")
    assert said["000.tar/a/.hidden"].startswith("hidden")
    assert said["000.tar/a/0001.npy"].startswith("no video or image")


# -- what fails later ----------------------------------------------------------------------------------------------


def test_a_clip_that_fails_in_a_run_is_told_once_and_added(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for i in range(6):
        encode(root / f"{i}.mp4", "libx264")
        (root / f"{i}.txt").write_text(f"words {i}", "utf-8")
    of, said = source(root, validation=1), []
    of.write_report(tmp_path / "out", said.append)
    before = json.loads((tmp_path / "out" / "data_mine.json").read_text("utf-8"))["files"]
    assert (before["used"], before["left_out"]) == (6, 0)
    kept_out = of.validation[0].file.record.name
    lost = next(item.file.record.name for item in of.items() if item.file.record.name != kept_out)
    for name in (lost, kept_out):
        (root / name).write_bytes(b"gone")
    for _ in range(2):
        of.batch(CLIP, range(there(of.counts[CLIP])), [False] * 5, [False] * 5)
    with pytest.raises(Exception, match="none of the 1 clips"):
        of.example_batch(CLIP, [0])
    assert len(said) == 2
    assert said[0].startswith(f"mine: {lost} is left out from now on, unreadable")
    of.finish_report()
    after = json.loads((tmp_path / "out" / "data_mine.json").read_text("utf-8"))
    assert after["files"] == {**before, "used": 4, "left_out": 2}
    assert after["validation"] == []
    with (tmp_path / "out" / "left_out_mine.csv").open(encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {lost, kept_out}


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_failing_file_whose_name_is_no_text_costs_no_more_than_itself(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    encode(root / "0.mp4", "libx264")
    (root / "0.txt").write_text("words", "utf-8")
    for i in range(3):
        odd = f"{i}\udcff"
        shutil.copy(root / "0.mp4", root / f"{odd}.mp4")
        (root / f"{odd}.txt").write_text("words", "utf-8")
    of, said = source(root), []
    of.write_report(tmp_path / "out", said.append)
    for i in range(3):
        (root / f"{i}\udcff.mp4").write_bytes(b"gone")
    of.batch(CLIP, range(4), [False] * 4, [False] * 4)
    assert len(said) == 3
    assert all(line.encode() for line in said)


def test_only_the_first_failures_are_said_and_all_are_written(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    encode(root / "0.mp4", "libx264")
    for i in range(12):
        if i:
            shutil.copy(root / "0.mp4", root / f"{i}.mp4")
        (root / f"{i}.txt").write_text("words", "utf-8")
    of, said = source(root), []
    of.write_report(tmp_path / "out", said.append)
    for i in range(1, 12):
        (root / f"{i}.mp4").write_bytes(b"gone")
    of.batch(CLIP, range(12), [False] * 12, [False] * 12)
    assert len(said) == 5
    assert "further ones are named in" in said[-1]
    with (tmp_path / "out" / "left_out_mine.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 11
    assert torch.is_tensor(of.batch(CLIP, [0], [False], [False]).frames)


# -- words ---------------------------------------------------------------------------------------------------------


def test_what_the_encoders_cannot_read_is_counted_before_training(tmp_path, capsys):
    """Over a folder of clips, with the demo's encoders: words of a made-up world, and 16 tokens of each caption."""
    root = tmp_path / "data"
    root.mkdir()
    encode(root / "0.mp4", "libx264")
    texts = ["a red circle", "a crimson zeppelin", "a red circle " * 20, "a red zeppelin"]
    for i, text in enumerate(texts):
        if i:
            shutil.copy(root / "0.mp4", root / f"{i}.mp4")
        (root / f"{i}.txt").write_text(text, "utf-8")
        (root / f"{i}.motion.txt").write_text("the red circle moves up", "utf-8")
    demo = Path(__file__).parents[3] / "pipelines" / "demo"
    sets = [
        f"sources.mine.path={root}", "sources.mine.kind=folder", "data.mix.mine=1.0", "data.frames=4",
        "data.validation=1", "optim.steps=1", "optim.batch_size=2", "device=cpu", "output.validation_clips=0",
        f"output.folder={tmp_path / 'run'}", f"encoders.text={demo / 'text_encoder'}",
        f"encoders.motion={demo / 'motion_encoder'}", f"encoders.image={demo / 'image_encoder'}", "output.loggers=()",
    ]  # fmt: skip
    train(load_run("demo", sets))
    said = capsys.readouterr().out
    assert "mine: 1 of 4 captions are longer than the 16 tokens that the text encoder reads" in said
    assert "mine: the text encoder does not know 'zeppelin', 'crimson'; it reads on without" in said
    (report,) = (tmp_path / "run" / "data").rglob("data_mine.json")
    found = json.loads(report.read_text("utf-8"))["captions"]
    assert found["text"]["unknown_words"] == {"zeppelin": 2, "crimson": 1}
    assert found["motion"]["longer_than_read"] == 0
    assert found["motion"]["unknown_words"] == {}
