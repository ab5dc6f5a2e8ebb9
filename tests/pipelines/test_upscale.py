"""`dreamfactory upscale` as a user types it: times, sound, colours and what a file says stay; files are whole or not
there; mistakes cost one sentence.

The model of most tests makes scale x scale pixels of each pixel, exactly, so that a frame says which one it was: frame
k is grey of level 20 + 10 k.
"""

import json
import os
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec.codec import UnknownCodecError
from PIL import Image

from dreamfactory.cli import main
from dreamfactory.model_patches.upscaling.enlarge import Enlarger
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.pipelines.media.files import read_image, write_video
from dreamfactory.pipelines.media.frames import pixels, shown_size

UNIT = Fraction(1, 12800)


def run(capsys, *args):
    """(exit code, standard output, standard error)"""
    try:
        code = main(["upscale", *(str(a) for a in args)])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def copying(scale):
    """An RCAN that makes scale x scale pixels of each."""
    network: Any = RCAN(RCANConfig(groups=1, blocks=1, features=4, reduction=4, scale=scale))
    for weight in network.parameters():
        weight.data.zero_()
    for channel in range(3):
        network.head[0].weight.data[channel, channel, 1, 1] = 1
        network.tail[1].weight.data[channel, channel, 1, 1] = 1
        for shuffle in network.tail[0][::2]:
            spread = shuffle.weight.shape[0] // 4  # pixels that PixelShuffle makes of one
            shuffle.weight.data[channel * spread : (channel + 1) * spread, channel, 1, 1] = 1
    return network


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for scale in (2, 3, 4):
        save_rcan(copying(scale), folder / f"x{scale}.safetensors", torch.float32)
    return folder


def level(k):
    return 20 + 10 * k


def make(path, count=8, codec="libx264", times=None, size=(48, 32), sound=None, options=None, ratio=None, tags=None):
    """A clip of 8 frames a second with a title and a comment, and a tone of 440 Hz."""
    with av.open(str(path), "w") as out:
        out.metadata["title"], out.metadata["comment"] = "a clip", json.dumps({"text": "é 猫"})
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": "4"} | (options or {}) if codec == "libx264" else options or {}
        stream.codec_context.time_base = Fraction(1, 8) if path.suffix == ".avi" else UNIT
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        heard = out.add_stream(sound, rate=44100) if sound else None
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), level(k % 20), np.uint8), format="rgb24")
            frame.pts, frame.time_base = times[k] if times else 1600 * k, UNIT
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if heard is not None:
            tone = (np.sin(np.arange(44100) / 44100 * 440 * 2 * np.pi) / 2).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            frame.rate, frame.pts = 44100, 0
            out.mux(heard.encode(frame))
            out.mux(heard.encode())
    return path


def read(path):
    """(times in seconds, frames (n, h, w, 3))"""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return [f.pts * f.time_base for f in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames])


def number(frames):
    """Which frames these are, by their grey."""
    return ((frames.reshape(len(frames), -1).mean(1) - 20) / 10).round().astype(int).tolist()


def packets(path, kind):
    with av.open(str(path)) as file:
        return [(p.pts * p.time_base, bytes(p)) for p in file.demux(**{kind: 0}) if p.size]


# -- what stays -----------------------------------------------------------------------------------------------------


def test_a_clip_keeps_all_but_its_size(capsys, models, tmp_path):
    source, target = make(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.mp4"
    code, out, err = run(capsys, source, target, "--model", models / "x4.safetensors")
    assert (code, out.strip()) == (0, str(target))
    assert err.splitlines()[0].startswith("48x32 -> 192x128, 8 frames, model x4, about ")
    times, frames = read(target)
    assert frames.shape == (8, 128, 192, 3)
    assert number(frames) == list(range(8))
    assert times == read(source)[0]
    assert packets(target, "audio") == packets(source, "audio")  # the same bytes at the same times
    with av.open(str(target)) as file, av.open(str(source)) as before:
        video = file.streams.video[0]
        assert (video.average_rate, video.frames, video.codec_context.name) == (8, 8, "h264")
        assert video.codec_context.pix_fmt == "yuv420p"
        assert file.metadata["title"] == "a clip"
        assert json.loads(file.metadata["comment"]) == {"text": "é 猫"}
        assert abs(file.duration - before.duration) < 1000  # microseconds
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_the_settings_of_a_generated_clip_stay(capsys, models, tmp_path):
    write_video(tmp_path / "in.mp4", torch.rand(3, 3, 32, 32), settings={"seed": 7})
    assert (
        run(capsys, tmp_path / "in.mp4", tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")[0] == 0
    )
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert json.loads(file.metadata["comment"]) == {"seed": 7}


def test_a_variable_frame_rate_keeps_its_times(capsys, models, tmp_path):
    stamps = [0, 1600, 1700, 4800, 9000, 9100]
    source = make(tmp_path / "in.mp4", len(stamps), times=stamps)
    assert run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors")[0] == 0
    times, frames = read(tmp_path / "out.mp4")
    assert times == [stamp * UNIT for stamp in stamps]
    assert number(frames) == list(range(6))


FORMATS = [
    ("in.mkv", "libx264", {"bf": "3"}),
    ("in.ts", "libx264", {"bf": "2"}),
    ("in.webm", "libvpx-vp9", {"lag-in-frames": "8", "auto-alt-ref": "1"}),
    ("in.avi", "libx264", {"bf": "2"}),
    ("in.avi", "mpeg4", {"bf": "2"}),
    ("in.gif", "gif", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), FORMATS)
def test_every_format_gives_its_frames_in_order(capsys, models, tmp_path, name, codec, options):
    source = tmp_path / name
    if codec == "gif":  # its palette has no such greys: PIL writes them exactly
        images = [Image.new("L", (48, 32), level(k)) for k in range(10)]
        images[0].save(source, save_all=True, append_images=images[1:], duration=120)
        interval = 0.12
    else:
        try:
            av.Codec(codec, "w")
        except UnknownCodecError:  # PyAV's own builds have them all, a system's FFmpeg may not
            pytest.skip(f"this FFmpeg does not write {codec}")
        make(source, 10, codec, options=options)
        interval = 0.125
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")
    assert (code, err) == (0, "")
    times, frames = read(tmp_path / "out.mp4")
    assert number(frames) == list(range(10))
    assert [float(t) for t in times] == pytest.approx(np.arange(10) * interval, abs=2e-3)


def test_sound_that_an_mp4_does_not_hold_becomes_aac(capsys, models, tmp_path):
    source = make(tmp_path / "in.mkv", sound="pcm_s16le")
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")
    assert code == 0
    assert err == "note: pcm_s16le sound has no place in an mp4; it becomes AAC.\n"
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        heard = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert len(heard) >= 44100
    strongest = np.abs(np.fft.rfft(heard[:44100])).argmax()  # hertz, of one second
    assert abs(strongest - 440) <= 1


def test_square_pixels(capsys, models, tmp_path):
    source = make(tmp_path / "in.mp4", ratio=Fraction(3, 2))
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors")
    assert code == 0
    assert "72x32 -> 144x64" in err
    assert read(tmp_path / "out.mp4")[1].shape == (8, 64, 144, 3)


# a, b, c, d of the matrix in a track's header -> what a player does to the stored frame.
WAYS = {
    "as it is": ((1, 0, 0, 1), lambda f: f),
    "a quarter to the right": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "a half": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "a quarter to the left": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda f: f[::-1]),
    "along the diagonal": ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
    "along the other": ((0, -1, -1, 0), lambda f: np.rot90(f, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_turned_or_mirrored_video_comes_out_as_players_show_it(capsys, models, tmp_path, way):
    (a, b, c, d), turn = WAYS[way]
    marked = np.zeros((32, 48, 3), np.uint8)
    marked[:8, :12], marked[24:, :16], marked[:16, 40:] = 255, (255, 0, 0), (0, 0, 255)
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv444p", {"crf": "0"}
        out.mux([*stream.encode(av.VideoFrame.from_ndarray(marked, format="rgb24")), *stream.encode()])
    plain = read(source)[1][0]
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # 9 numbers of 4 bytes
    number = [(sign << 16).to_bytes(4, "big", signed=True) for sign in (a, b, c, d)]
    none, last = bytes(4), (1 << 30).to_bytes(4, "big")
    data[place : place + 36] = b"".join((number[0], number[1], none, number[2], number[3], none, none, none, last))
    source.write_bytes(data)
    with av.open(str(source)) as file:
        frame = next(file.decode(video=0))
        shown = pixels(frame, shown_size(frame, file.streams.video[0]))
    assert np.abs(shown.astype(int) - turn(plain)).max() <= 3  # two ways from YUV
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors")
    assert code == 0
    assert ("32x48 -> 64x96" if a == 0 else "48x32 -> 96x64") in err
    with av.open(str(tmp_path / "out.mp4")) as file:
        frame = next(file.decode(video=0))
        assert frame.rotation == 0
        assert not any(data.type.name == "DISPLAYMATRIX" for data in frame.side_data)


# -- colours --------------------------------------------------------------------------------------------------------

LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}  # weights of red and blue: BT.709 and BT.601, their equations


def to_yuv(colour, matrix, full):
    """BT.709 3.2-3.4, BT.601 2.5: an 8-bit RGB colour as luma and chroma."""
    red, blue = LUMA[matrix]
    r, g, b = (c / 255 for c in colour)
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    if full:
        return [round(255 * luma), *(min(255, round(128 + 255 * c)) for c in chroma)]
    return [round(16 + 219 * luma), *(round(128 + 224 * c) for c in chroma)]


def to_rgb(planes, matrix, full):
    """The colour that luma and chroma stand for, by the same equations."""
    red, blue = LUMA[matrix]
    y = planes[0] / 255 if full else (planes[0] - 16) / 219
    cb, cr = ((p - 128) / (255 if full else 224) for p in planes[1:])
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    return (255 * np.array([r, (y - red * r - blue * b) / (1 - red - blue), b])).clip(0, 255)


@pytest.mark.parametrize("colour", [(255, 0, 0), (128, 128, 128), (200, 80, 30), (10, 60, 220)])
@pytest.mark.parametrize(("matrix", "full"), [(1, False), (5, False), (1, True), (5, True)])
def test_colours_stay_what_the_source_says_they_are(capsys, models, tmp_path, colour, matrix, full):
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"crf": "1"}
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for k in range(3):
            frame = av.VideoFrame(48, 32, "yuv420p")
            for plane, value in zip(frame.planes, to_yuv(colour, matrix, full), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = k, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")
    with av.open(str(tmp_path / "out.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
        frame = next(file.decode(video=0))
    planes = [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].mean() for p in frame.planes]
    meant = to_rgb(to_yuv(colour, matrix, full), matrix, full)  # within the rounding of the source's numbers
    assert np.abs(meant - colour).max() < 2
    assert np.abs(to_rgb(planes, 1, False) - meant).max() <= 2


# -- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["96x64", "80x64", "96x40", "50x34"])
def test_an_exact_size(capsys, models, tmp_path, size):
    source = make(tmp_path / "in.mp4", count=3)
    model = ("--model", models / "x4.safetensors", "--scale", 4)
    assert run(capsys, source, tmp_path / "out.mp4", *model, "--size", size)[0] == 0
    frames = read(tmp_path / "out.mp4")[1]
    assert f"{frames.shape[2]}x{frames.shape[1]}" == size
    assert number(frames) == [0, 1, 2]


def test_odd_sizes_lose_their_last_row_and_column(capsys, models, tmp_path):
    images = [Image.new("L", (31, 21), level(k)) for k in range(3)]
    images[0].save(tmp_path / "in.gif", save_all=True, append_images=images[1:], duration=120)
    assert run(capsys, tmp_path / "in.gif", tmp_path / "out.mp4", "--model", models / "x3.safetensors")[0] == 0
    assert read(tmp_path / "out.mp4")[1].shape == (3, 62, 92, 3)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_picture_becomes_a_larger_one(capsys, models, tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 31, 3), dtype=np.uint8)
    options = {".png": {}, ".webp": {"lossless": True}, ".jpg": {"quality": 95}}[suffix]
    Image.fromarray(pixels).save(tmp_path / f"in{suffix}", **options)
    assert run(capsys, tmp_path / f"in{suffix}", tmp_path / "out.png", "--model", models / "x3.safetensors")[0] == 0
    expected = read_image(tmp_path / f"in{suffix}", 21, 31)[0].repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert (read_image(tmp_path / "out.png", 63, 93)[0] - expected).abs().max() < 1 / 255
    size = ("--size", "45x33")
    run(capsys, tmp_path / f"in{suffix}", tmp_path / "small.png", "--model", models / "x3.safetensors", *size)
    assert Image.open(tmp_path / "small.png").size == (45, 33)


# -- memory, interruption -------------------------------------------------------------------------------------------


def test_frames_alive_at_once_do_not_depend_on_the_length(capsys, models, tmp_path, monkeypatch):
    seen, enlarge = [], Enlarger.__call__
    monkeypatch.setattr(Enlarger, "__call__", lambda self, x: seen.append(len(x)) or enlarge(self, x))
    for count in (30, 300):
        source = make(tmp_path / f"{count}.mp4", count, size=(16, 16))
        seen.clear()
        model = ("--model", models / "x2.safetensors", "--frames-at-once", 7, "--quiet")
        assert run(capsys, source, tmp_path / "out.mp4", *model)[0] == 0
        assert sum(seen) == count
        assert max(seen) == 7
        assert len(read(tmp_path / "out.mp4")[0]) == count


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_what_stops_half_way_leaves_no_file_and_keeps_the_old_one(
    capsys, models, tmp_path, monkeypatch, existing, stop
):
    source, target = make(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.mp4"
    if existing:
        target.write_bytes(b"what was there")
    enlarge, calls = Enlarger.__call__, []

    def stopped(self, frames):
        calls.append(1)
        if len(calls) == 3:
            raise stop
        return enlarge(self, frames)

    monkeypatch.setattr(Enlarger, "__call__", stopped)
    args = (source, target, "--model", models / "x2.safetensors", "--frames-at-once", 2)
    code, _, err = run(capsys, *args)
    told = {
        KeyboardInterrupt: (130, "interrupted, nothing half-written"),
        MemoryError: (1, "memory ran out (MemoryError)"),
    }
    assert code == told[stop][0]
    assert told[stop][1] in err
    assert len(calls) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == (["in.mp4", "out.mp4"] if existing else ["in.mp4"])
    if existing:
        assert target.read_bytes() == b"what was there"


def test_the_demo_has_an_upscaler(capsys, tmp_path):
    source = make(tmp_path / "in.mp4", count=2, size=(16, 16))
    assert run(capsys, source, tmp_path / "out.mp4", "--model", "demo")[0] == 0
    assert number(read(tmp_path / "out.mp4")[1]) == [0, 1]


def test_an_existing_target_is_replaced(capsys, models, tmp_path):
    source, target = make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"what was there")
    assert run(capsys, source, target, "--model", models / "x2.safetensors")[0] == 0
    assert len(read(target)[0]) == 8


def test_a_full_disk_is_one_sentence(capsys, models, tmp_path, monkeypatch):
    def full(self, image, time):
        raise OSError(28, "No space left on device")

    source = make(tmp_path / "in.mp4")
    monkeypatch.setattr("dreamfactory.pipelines.media.transcode.Video.put", full)
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")
    assert code == 2
    assert "out.mp4 cannot be written (No space left on device)" in err
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_damaged_frames_are_left_out_and_told(capsys, models, tmp_path):
    source = make(tmp_path / "in.mp4", options={"g": "1"})
    with av.open(str(source)) as file:
        place, size = next((p.pos, p.size) for k, p in enumerate(file.demux(video=0)) if k == 5)
    data = bytearray(source.read_bytes())
    data[place : place + size] = b"\xff" * size
    source.write_bytes(data)
    code, _, err = run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", "--quiet")
    assert (code, err) == (0, "note: in.mp4 is damaged: 1 of its frames could not be decoded.\n")
    times, frames = read(tmp_path / "out.mp4")
    assert number(frames) == [0, 1, 2, 3, 4, 6, 7]
    assert times == [Fraction(k, 8) for k in (0, 1, 2, 3, 4, 6, 7)]


# -- mistakes -------------------------------------------------------------------------------------------------------


def empty_video(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        out.start_encoding()


def empty_frames(path, source):
    """A video whose frames are zeros."""
    data = bytearray(source.read_bytes())
    place = data.index(b"mdat")
    size = int.from_bytes(data[place - 4 : place], "big")
    data[place + 4 : place - 4 + size] = bytes(size - 8)
    path.write_bytes(data)


def only_sound(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate, frame.pts = 44100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())


MISTAKES = {
    "no source": (("{tmp}/gone.mp4", "{tmp}/out.mp4"), "gone.mp4 does not exist"),
    "a folder": (("{tmp}", "{tmp}/out.mp4"), "is a folder"),
    "no video file": ((__file__, "{tmp}/out.mp4"), "cannot be opened as a video"),
    "a playlist": (("{tmp}/list.mp4", "{tmp}/out.mp4"), "cannot be opened as a video"),
    "no whole frame": (("{tmp}/zeros.mp4", "{tmp}/out.mp4"), "has no frame that can be decoded"),
    "no frames": (("{tmp}/empty.mkv", "{tmp}/out.mp4"), "cannot be opened as a video (End of file)"),
    "no frames in an mp4": (("{tmp}/empty.mp4", "{tmp}/out.mp4"), "has no video in it that can be decoded"),
    "no video stream": (("{tmp}/sound.mp4", "{tmp}/out.mp4"), "has no video in it"),
    "no picture": (("{tmp}/no.png", "{tmp}/out.png"), "is no picture"),
    "a video as a picture": (("{tmp}/in.mp4", "{tmp}/out.png"), "must end in .mp4"),
    "a picture as a video": (("{tmp}/in.png", "{tmp}/out.mp4"), "must end in .png"),
    "onto itself": (("{tmp}/in.mp4", "{tmp}/in.mp4"), "would be written over"),
    "onto itself by another name": (("{tmp}/in.mp4", "{tmp}/link.mp4"), "would be written over"),
    "nowhere to write": (("{tmp}/in.mp4", "{tmp}/in.png/out.mp4"), "cannot be written"),
    "size no size": (("--size", "wide"), "size is 'wide'; write width x height"),
    "size odd": (("--size", "97x64"), "size is 97x64; expected even numbers"),
    "size zero": (("--size", "0x64"), "size is 0x64; expected even numbers"),
    "size too large": (
        ("--size", "192x128"),
        "48x32 times 2 is 96x64; 192x128 asks for x4: choose a x4 model or a smaller size.",
    ),
    "another scale": (("--scale", 4), "x2.safetensors enlarges x2; --scale asks for a x4 model"),
    "scale one": (("--scale", 1), "scale is 1; expected 2 or more"),
    "fp16": (("--dtype", "fp16"), "x2.safetensors does not compute in fp16; choose fp32 or bf16"),
    "tile": (("--tile", 8), "tile is 8; expected 64 pixels or more"),
    "no frames at once": (("--frames-at-once", 0), "frames at once is 0; expected 1 to 1024"),
    "crf": (("--crf", 60), "crf is 60; expected 0"),
    "device": (("--device", "warp"), "'warp' cannot be used"),
    "a video network": (("--model", DEMO / "unet.safetensors"), "is no upscaler: it is a video network"),
    "a pickle": (("--model", "{tmp}/model.pth"), "model.pth is no file of torch.save"),
    "no model": (("--model", "{tmp}/gone.safetensors"), "gone.safetensors does not exist"),
    "damaged model": (("--model", "{tmp}/damaged.safetensors"), "is no safetensors file, or is damaged"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence_and_nothing_else(capsys, models, tmp_path, mistake):
    make(tmp_path / "in.mp4", count=2)
    os.link(tmp_path / "in.mp4", tmp_path / "link.mp4")
    Image.new("RGB", (20, 20)).save(tmp_path / "in.png")
    empty_video(tmp_path / "empty.mp4")
    empty_video(tmp_path / "empty.mkv")
    empty_frames(tmp_path / "zeros.mp4", tmp_path / "in.mp4")
    only_sound(tmp_path / "sound.mp4")
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/in.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "model.pth").write_bytes(b"x")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a header at all")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    given, sentence = MISTAKES[mistake]
    given = [str(a).format(tmp=tmp_path) for a in given]
    files = given[:2] if not given[0].startswith("--") else [tmp_path / "in.mp4", tmp_path / "out.mp4"]
    more = [] if files == given else given
    code, out, err = run(capsys, *files, "--model", models / "x2.safetensors", *more)
    assert code == 2
    assert sentence in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_cheap_mistakes_are_told_before_weights_are_read(capsys, models, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfactory.pipelines.upscale.load_upscaler", lambda path: pytest.fail("weights were read"))
    empty_video(tmp_path / "empty.mp4")
    for source, more in ((tmp_path / "empty.mp4", ()), (tmp_path / "gone.mp4", ()), (__file__, ("--size", "1x"))):
        assert run(capsys, source, tmp_path / "out.mp4", "--model", models / "x2.safetensors", *more)[0] == 2
