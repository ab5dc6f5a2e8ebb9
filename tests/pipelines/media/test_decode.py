"""Frames from files: which one is which, when it is shown, how it is turned, and what cannot be read.

Frame k of every made file is grey of level 20 + 10 k, so a frame says by itself which one it is.
"""

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import av.codec.codec
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfactory.pipelines.media.decode import Unreadable, probe, read_frames
from dreamfactory.pipelines.media.files import write_video
from dreamfactory.training.data.picks import choose_frames
from dreamfactory.training.data.records import Record


def level(k):
    return 20 + 10 * k


def number(frames):
    """Which frames these are, by their grey."""
    return ((frames.reshape(len(frames), -1).mean(1) - 20) / 10).round().astype(int).tolist()


def greys(count, height=32, width=48):
    return (torch.tensor([level(k) for k in range(count)]) / 255)[:, None, None, None].expand(-1, 3, height, width)


def record(path, media="video", offset=0, size=None):
    return Record(Path(path).name, Path(path), offset, size, media, "text", "motion", Path(path).suffix)


def encode(path, codec, count=20, stamps=None, options=None, pix="yuv420p", ratio=None, size=(48, 32)):
    """A file with frames shown at `stamps` (seconds), by default 8 a second."""
    stamps = [Fraction(k, 8) for k in range(count)] if stamps is None else stamps
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:  # PyAV's own builds have them all, a system's FFmpeg may not
        pytest.skip(f"this FFmpeg does not write {codec}")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size, pix, options or {}
        # AVI counts frames, the others milliseconds.
        stream.codec_context.time_base = Fraction(1, 8 if str(path).endswith(".avi") else 1000)
        stream.bit_rate = 4_000_000
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        for k, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), level(k), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(stamp * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return record(path)


# -- what a file is ------------------------------------------------------------------------------------------------


def test_a_video_is_described_without_decoding_it(tmp_path):
    write_video(tmp_path / "a.mp4", greys(12), fps=8)
    found = probe(record(tmp_path / "a.mp4"))
    assert (found.width, found.height) == (48, 32)
    assert found.times == pytest.approx(np.arange(12) / 8)
    assert found.fps == pytest.approx(8)
    assert found.duration == pytest.approx(1.5)


FORMATS = [
    ("a.mp4", "libx264", {"g": "5", "bf": "2"}, "yuv420p"),
    ("a.mkv", "libx264", {"g": "5", "bf": "3", "x264-params": "open-gop=1"}, "yuv420p"),
    ("a.mov", "mpeg4", {"g": "5", "bf": "2"}, "yuv420p"),
    ("a.webm", "libvpx-vp9", {"g": "5", "lag-in-frames": "8", "auto-alt-ref": "1"}, "yuv420p"),
    ("a.avi", "libx264", {"g": "5", "bf": "2"}, "yuv420p"),
    ("a.avi", "mpeg4", {"g": "5", "bf": "2"}, "yuv420p"),
    ("a.gif", "gif", {}, "rgb8"),
]


@pytest.mark.parametrize(("name", "codec", "options", "pix"), FORMATS)
def test_every_format_gives_each_frame_by_its_number(tmp_path, name, codec, options, pix):
    if codec == "gif":  # its palette has no such greys: PIL writes them exactly
        images = [Image.new("L", (48, 32), level(k)) for k in range(20)]
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=120)
        clip, interval = record(tmp_path / name), 0.12
    else:
        clip, interval = encode(tmp_path / name, codec, options=options, pix=pix), 0.125
    found = probe(clip)
    assert len(found.times) == 20
    assert found.times == pytest.approx(np.arange(20) * interval, abs=2e-3)
    for picks in (list(range(20)), [0], [19], [7, 8, 9], [11, 13, 17], [4, 4, 5], [9, 3]):
        assert number(read_frames(clip, found, picks)) == picks


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    stamps = [0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.5, 1.55, 1.6, 2.0]
    clip = encode(tmp_path / "a.mkv", "libx264", stamps=stamps, options={"bf": "2", "g": "4"})
    found = probe(clip)
    assert found.times == pytest.approx(stamps, abs=2e-3)
    assert found.fps == pytest.approx(9 / 2.0, abs=0.01)
    # By hand: the frames nearest to 0, 0.5, 1.0, 1.5 and 2.0 seconds.
    assert choose_frames(found, 5, 2, 1) == [0, 3, 5, 6, 9]
    assert number(read_frames(clip, found, [0, 3, 5, 6, 9])) == [0, 3, 5, 6, 9]


def test_a_video_that_starts_late_starts_at_zero(tmp_path):
    clip = encode(tmp_path / "a.mkv", "libx264", stamps=[3 + k / 8 for k in range(10)])
    found = probe(clip)
    assert found.times == pytest.approx(np.arange(10) / 8, abs=2e-3)
    assert number(read_frames(clip, found, [2, 9])) == [2, 9]


# tkhd's matrix (ISO/IEC 14496-12): what stands at (x, y) is shown at (a x + c y, b x + d y), y down.
TURNS = {"right": (0, 1, -1, 0), "left": (0, -1, 1, 0), "over": (-1, 0, 0, -1)}


@pytest.mark.parametrize("turn", TURNS)
def test_a_phone_s_video_is_turned_upright(tmp_path, turn):
    clip = torch.zeros(4, 3, 32, 48)
    clip[:, 0, :, :24] = 1  # the left half red, the right half blue
    clip[:, 2, :, 24:] = 1
    write_video(tmp_path / "a.mp4", clip)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (n << 16 for n in TURNS[turn])
    for i, entry in enumerate((a, b, 0, c, d, 0, 0, 0, 1 << 30)):
        data[at + 4 * i : at + 4 * i + 4] = (entry % 2**32).to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    found = probe(record(tmp_path / "a.mp4"))
    frame = read_frames(record(tmp_path / "a.mp4"), found, [1])[0]
    assert frame.shape == (found.height, found.width, 3)
    assert (found.width, found.height) == ((48, 32) if turn == "over" else (32, 48))
    first, second = {
        "right": (frame[:20], frame[-20:]),  # left goes up
        "left": (frame[-20:], frame[:20]),
        "over": (frame[:, -20:], frame[:, :20]),
    }[turn]
    assert (first[..., 0] > 200).all()
    assert (second[..., 2] > 200).all()


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    clip = encode(tmp_path / "a.mp4", "libx264", ratio=Fraction(4, 3))
    found = probe(clip)
    assert (found.width, found.height) == (64, 32)
    frames = read_frames(clip, found, [3])
    assert frames.shape == (1, 32, 64, 3)
    assert number(frames) == [3]


@pytest.mark.parametrize(
    ("size", "matrix", "red"),  # pure red, by ITU-R BT.601 and BT.709
    [((64, 48), None, (81, 90, 240)), ((64, 48), "bt709", (63, 102, 240)), ((1280, 720), None, (63, 102, 240))],
)
def test_colours_are_those_of_the_file_s_matrix(tmp_path, size, matrix, red):
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"x264-params": f"colormatrix={matrix}"} if matrix else {}
        planes = [
            np.full(size[0] * size[1] // part, value, np.uint8) for value, part in zip(red, (1, 4, 4), strict=True)
        ]
        data = np.concatenate(planes).reshape(size[1] * 3 // 2, size[0])
        out.mux(stream.encode(av.VideoFrame.from_ndarray(data, format="yuv420p")))
        out.mux(stream.encode())
    clip = record(tmp_path / "a.mkv")
    colour = read_frames(clip, probe(clip), [0])[0].reshape(-1, 3).mean(0)
    assert colour == pytest.approx([255, 0, 0], abs=4)


def test_images_are_turned_and_laid_on_white(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    found = probe(record(tmp_path / "a.png", "image"))
    assert (found.width, found.height, len(found.times)) == (20, 40, 1)
    (frame,) = read_frames(record(tmp_path / "a.png", "image"), found, [0])
    assert frame.shape == (40, 20, 3)
    assert frame[5, 5].tolist() == [255, 0, 0]  # left goes up
    assert frame[35, 5].tolist() == [0, 0, 255]

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.bmp")
    clear, grey = (record(tmp_path / n, "image") for n in ("clear.png", "grey.bmp"))
    assert (read_frames(clear, probe(clear), [0]) == 255).all()
    assert (read_frames(grey, probe(grey), [0]) == 77).all()


def test_members_of_a_tar_are_read_where_they_lie(tmp_path):
    write_video(tmp_path / "a.mp4", greys(6))
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "b.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.mp4", "b.png"):
            tar.add(tmp_path / name, name)
        a, b = (tar.getmember(n) for n in ("a.mp4", "b.png"))
        places = [(a.offset_data, a.size), (b.offset_data, b.size)]
    with tarfile.open(tmp_path / "s.tar") as tar:
        places = [(m.offset_data, m.size) for m in tar]
    video, image = (record(tmp_path / "s.tar", m, *p) for m, p in zip(("video", "image"), places, strict=True))
    assert number(read_frames(video, probe(video), [1, 5])) == [1, 5]
    assert (read_frames(image, probe(image), [0]) == 9).all()


# -- what cannot be read -------------------------------------------------------------------------------------------


def test_what_is_no_video_says_so(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video, but words\n" * 99)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "text.png").write_text("no picture")
    write_video(tmp_path / "whole.mp4", greys(20))
    # write_video puts the index first; without it the frames cannot be found.
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "headless.mp4").write_bytes(data[: data.index(b"moov") + 40])
    (tmp_path / "names.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")  # a file that names another
    for name in ("empty.mp4", "text.mp4", "list.mp4", "headless.mp4", "gone.mp4", "names.mp4"):
        with pytest.raises(Unreadable, match=r"^unreadable: ."):
            probe(record(tmp_path / name))
    for name in ("text.png", "empty.mp4", "gone.png"):
        with pytest.raises(Unreadable, match=r"^unreadable: ."):
            probe(record(tmp_path / name, "image"))


def test_a_video_that_is_cut_short_has_the_frames_that_are_there(tmp_path):
    torch.manual_seed(3)
    noise = greys(20, 64, 64) + 0.1 * torch.randn(20, 3, 64, 64)
    write_video(tmp_path / "a.mp4", noise.clamp(0, 1))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    clip = record(tmp_path / "a.mp4")
    found = probe(clip)
    count = len(found.times)
    assert 5 < count < 15
    frames = read_frames(clip, found, [0, count - 1])
    assert abs(frames[1].mean() - level(count - 1)) < 6
    # Cut again after it was looked at: a frame that is gone is told, not made up.
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 4])
    with pytest.raises(Unreadable):
        read_frames(clip, found, [0, count - 1])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_no_file_stays_open(tmp_path):
    write_video(tmp_path / "a.mp4", greys(8))
    (tmp_path / "bad.mp4").write_bytes(b"x" * 1000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        found = probe(record(tmp_path / "a.mp4"))
        read_frames(record(tmp_path / "a.mp4"), found, [3])
        with pytest.raises(Unreadable):
            probe(record(tmp_path / "bad.mp4"))
        with pytest.raises(Unreadable):
            read_frames(record(tmp_path / "bad.mp4"), found, [3])
    assert len(os.listdir("/proc/self/fd")) == before
