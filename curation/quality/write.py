"""Frames into files of many kinds, their times exactly known; one thread, so that the bytes are the same again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from ...files import whole
from ...pipelines.media.frames import BT601, BT709, LIMITED, as_bt709
from .texture import Array

FORMATS = {
    ".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts", ".gif": "gif",
}  # fmt: skip
UNITS = {".mkv": Fraction(1, 1000), ".webm": Fraction(1, 1000), ".ts": Fraction(1, 90000), ".gif": Fraction(1, 100)}
X264 = {"preset": "superfast", "crf": "20", "x264-params": "mbtree=0"}  # see `files.write_video`


@dataclass(frozen=True)
class Coding:
    codec: str = "libx264"
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: dict(X264))
    stretch: Fraction | None = None  # width of a pixel over its height


def write(
    path: Path, frames: Iterable[Array], rate: Fraction, coding: Coding | None = None, times: Sequence[Fraction] = ()
) -> list[float]:
    """Frames (h, w, 3) of bytes as a video; when each is shown as the file has it, from the first on, and the end.

    times: of the frames, seconds, where they are not evenly spaced. Raises ValueError.
    """
    coding = coding or Coding()
    unit = UNITS.get(path.suffix, 1 / rate if not times else Fraction(1, 90000))
    if path.suffix == ".avi":
        unit = 1 / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    stamps: list[int] = []
    with whole(path) as temporary, av.open(str(temporary), "w", format=FORMATS[path.suffix]) as out:
        stream: Any = None
        for number, image in enumerate(frames):
            if stream is None:
                stream = _stream(out, coding, rate, unit, image.shape[:2])
            frame = converted(image, coding.pixels)
            stamps.append(round((times[number] if times else number / rate) / unit))
            frame.pts, frame.time_base = stamps[-1], unit
            out.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("a video of no frames cannot be written.")
        for packet in stream.encode():
            out.mux(packet)
    after = stamps[-1] + max(1, round(1 / rate / unit))
    return [float((stamp - stamps[0]) * unit) for stamp in (*stamps, after)]


def _stream(out: Any, coding: Coding, rate: Fraction, unit: Fraction, size: tuple[int, int]) -> Any:
    stream = out.add_stream(coding.codec, rate=rate)
    stream.height, stream.width = size
    stream.pix_fmt, stream.options = coding.pixels, {**coding.options, "threads": "1"}
    context = stream.codec_context
    context.time_base = unit
    if coding.pixels.startswith("yuv"):
        as_bt709(context)
    if coding.stretch is not None:
        context.sample_aspect_ratio = coding.stretch
    return stream


def converted(image: Array, pixels: str) -> av.VideoFrame:
    """As an encoder takes it: BT.709, 16 to 235."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    if not pixels.startswith("yuv"):
        return frame.reformat(format=pixels)
    # The source's matrix is none: see `frames.to_yuv`.
    options = cast(Any, {"src_colorspace": BT601, "dst_colorspace": BT709, "dst_color_range": LIMITED})
    return frame.reformat(format=pixels, **options)
