"""Frames into files of many kinds, their times exactly known; one thread, so that the bytes are the same again."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import av.filter
import numpy as np
from av.codec.context import Flags

from ...files import whole
from ...pipelines.media.frames import BT601, BT709, LIMITED, as_bt709
from .texture import Array

FORMATS = {
    ".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts", ".gif": "gif",
    ".wmv": "asf", ".flv": "flv", ".mpg": "mpeg", ".m4a": "ipod",
}  # fmt: skip
MILLISECOND = Fraction(1, 1000)
# Seconds that a file's times are counted in; of others as long as a frame is shown, or a 90 000th part of one.
UNITS = {
    ".mkv": MILLISECOND, ".webm": MILLISECOND, ".wmv": MILLISECOND, ".flv": MILLISECOND, ".gif": Fraction(1, 100),
    ".ts": Fraction(1, 90000), ".mpg": Fraction(1, 90000),
}  # fmt: skip
SOUND_RATE = 48000
SAME = {"fflags": "bitexact"}  # Matroska would draw a number for every file
X264 = {"preset": "superfast", "crf": "20", "x264-params": "mbtree=0"}  # see `files.write_video`


os.environ.setdefault("SVT_LOG", "1")  # of the AV1 encoder, which else tells its settings: errors alone


def can_write(codec: str) -> bool:
    """Whether this FFmpeg has the encoder."""
    try:
        av.Codec(codec, "w")
    except (ValueError, av.error.FFmpegError):
        return False
    return True


@dataclass(frozen=True)
class Coding:
    codec: str = "libx264"
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: dict(X264))
    stretch: Fraction | None = None  # width of a pixel over its height
    fields: bool = False  # interlaced: its lines are of two moments, the upper ones' first
    container: dict[str, str] = field(default_factory=dict)  # options of the muxer
    sound: bool = False


def write(
    path: Path, frames: Iterable[Array], rate: Fraction, coding: Coding | None = None, times: Sequence[Fraction] = ()
) -> list[float]:
    """Frames (h, w, 3) of bytes as a video; when each is shown as the file has it, from the first on, and the end.

    times: of the frames, seconds, where they are not evenly spaced. Raises ValueError where there are no frames.
    """
    coding = coding or Coding()
    unit = UNITS.get(path.suffix, Fraction(1, 90000) if times else 1 / rate)
    count = unit if times else 1 / rate  # in which frames are counted; some encoders take nothing else
    path.parent.mkdir(parents=True, exist_ok=True)
    stamps: list[int] = []
    with (
        whole(path) as temporary,
        av.open(str(temporary), "w", format=FORMATS[path.suffix], options={**SAME, **coding.container}) as out,
    ):
        stream: Any = None
        for number, image in enumerate(frames):
            if stream is None:
                stream = _stream(out, coding, rate, count, image.shape[:2])
                if coding.sound:
                    hum(out, 3.0)
            frame = converted(image, coding.pixels)
            frame = _as_fields(frame) if coding.fields else frame
            moment = times[number] if times else number / rate
            stamps.append(math.floor(moment / unit + Fraction(1, 2)))  # as FFmpeg rounds
            frame.pts, frame.time_base = round(moment / count), count
            out.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("a video of no frames cannot be written.")
        out.mux(stream.encode())
    after = stamps[-1] + max(1, round(1 / rate / unit))
    return [float((stamp - stamps[0]) * unit) for stamp in (*stamps, after)]


def _stream(out: Any, coding: Coding, rate: Fraction, count: Fraction, size: tuple[int, int]) -> Any:
    stream = out.add_stream(coding.codec, rate=rate)
    stream.height, stream.width = size
    stream.pix_fmt, stream.options = coding.pixels, {**coding.options, "threads": "1"}
    context = stream.codec_context
    context.time_base = count
    if coding.pixels.startswith("yuv"):
        as_bt709(context)
    if coding.stretch is not None:
        context.sample_aspect_ratio = coding.stretch
    if coding.fields:
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    return stream


def hum(out: Any, seconds: float) -> None:
    """A low tone as a sound track."""
    stream = out.add_stream("aac", rate=SOUND_RATE)
    wave = np.sin(2 * np.pi * 220 / SOUND_RATE * np.arange(int(seconds * SOUND_RATE)), dtype=np.float32) / 8
    for start in range(0, len(wave) - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def converted(image: Array, pixels: str) -> av.VideoFrame:
    """As an encoder takes it: BT.709, 16 to 235."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    if not pixels.startswith("yuv"):
        return frame.reformat(format=pixels)
    # The source's matrix is none: see `frames.to_yuv`.
    options = cast(Any, {"src_colorspace": BT601, "dst_colorspace": BT709, "dst_color_range": LIMITED})
    return frame.reformat(format=pixels, **options)


def woven(frames: Sequence[Array]) -> list[Array]:
    """Frames of fields: every two frames become one, the lines of the second between those of the first."""
    found = []
    for upper, lower in zip(frames[::2], frames[1::2], strict=False):
        frame = upper.copy()
        frame[1::2] = lower[1::2]
        found.append(frame)
    return found


def _as_fields(frame: av.VideoFrame) -> av.VideoFrame:
    """It says that its upper lines come first."""
    graph = av.filter.Graph()
    start = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(start, graph.add("setfield", "mode=tff"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return cast(av.VideoFrame, graph.vpull())
