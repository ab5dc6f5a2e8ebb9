"""One decoded frame as a player shows it: upright, with square pixels, its colours as the file says they are meant.

What takes more than the frame itself, such as what its container states, is in viewer.py.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from . import hdr
from .stills import on_white

# Playlists and the like are files that name other files, or addresses: not opened, whatever their name ends in.
CONTAINERS = "mov,matroska,webm,avi,gif,mpegts,mpeg,asf,flv,ogg"
BT709, UNSPECIFIED, BT601 = 1, 2, 5  # colour matrices, as ISO/IEC 23091-2 numbers them
MATRICES = (BT709, 4, BT601, 7, 9)  # that FFmpeg's scaler knows by these numbers
LIMITED, FULL = 1, 2  # ranges of luma: 16 to 235, 0 to 255
# FFmpeg's scaler: bicubic, rounding accurately, with chroma for each pixel; right to half a level where its quick way
# is wrong by two and a half. As a number, since PyAV 14 has no names for the last two.
SCALER = 0x4 | 0x40000 | 0x2000
QUICK = 0x20  # area averages, in a third of the time: for what is measured at a small size


def shown_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """Width and height."""
    ratio = stream.sample_aspect_ratio
    width = max(1, round(frame.width * float(ratio))) if ratio else frame.width
    return (frame.height, width) if _lies(frame) else (width, frame.height)


def side_data(frame: av.VideoFrame) -> Iterable[Any]:
    """What comes with a frame, each with its `type`."""
    told: Any = frame.side_data  # PyAV's stub takes them for texts
    return told


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of the file's display matrix (ISO/IEC 14496-12, 8.3.2): shown x = a x + c y, y = b x + d y.

    `frame.rotation` is an angle, which does not say that a frame is mirrored.
    """
    for data in side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return a, b, c, d
    return 1, 0, 0, 1


def _lies(frame: av.VideoFrame) -> bool:
    """Whether a frame is stored on its side."""
    a, b, c, d = _display_matrix(frame)
    return abs(b) + abs(c) > abs(a) + abs(d)


def is_upright(frame: av.VideoFrame) -> bool:
    """Whether a frame is shown as it is stored, neither turned nor mirrored."""
    a, _, _, d = _display_matrix(frame)
    return not _lies(frame) and a > 0 and d > 0


def _upright(frame: av.VideoFrame, stored: np.ndarray) -> np.ndarray:
    """(h, w, 3) as stored -> turned and mirrored as it is shown, by the nearest of the eight ways there are."""
    a, b, c, d = _display_matrix(frame)
    x, y = a, d
    if _lies(frame):
        stored, x, y = stored.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(stored[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1])


def pixels(
    frame: av.VideoFrame, size: tuple[int, int], signal: hdr.Signal | None = None, scaler: int = SCALER
) -> np.ndarray:
    """(height, width, 3) bytes. size: (width, height) as shown; what can be seen through lies on white.

    signal: what the numbers of an HDR frame mean; None: it is ordinary video. scaler: SCALER or QUICK.
    """
    see_through = is_see_through(frame)
    width, height = reversed(size) if _lies(frame) else size
    if signal is None:
        form = "rgba" if see_through else "rgb24"
        shown = _ordinary(frame, width, height, form, scaler).to_ndarray()
    else:
        shown = _from_hdr(frame, width, height, see_through, signal, scaler)
    if see_through:
        shown = np.array(on_white(Image.fromarray(shown)))
    return _upright(frame, shown)


def is_see_through(frame: av.VideoFrame) -> bool:
    # A palette's colours may be transparent each.
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _ordinary(frame: av.VideoFrame, width: int, height: int, form: str, scaler: int) -> av.VideoFrame:
    """Of a frame as stored: RGB, or yuv420p in BT.709, 16 to 235."""
    source, full = BT601, True
    if frame.format.name.startswith("yuv"):
        source = frame.colorspace if frame.colorspace in MATRICES else BT601
        if frame.colorspace == UNSPECIFIED and frame.height >= 720:
            source = BT709  # what states none has that of its time: large video came with BT.709
        full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    if form == "yuv420p":
        target, full_target = BT709, LIMITED
    else:
        # RGB has no matrix; PyAV 14 heeds the one given only where the other side's is another.
        target, full_target = BT601 if source == BT709 else BT709, FULL
    options: dict[str, Any] = {}
    if form == "yuv420p" or frame.format.name.startswith("yuv"):
        options = {"src_colorspace": source, "dst_colorspace": target}
        options |= {"src_color_range": FULL if full else LIMITED, "dst_color_range": full_target}
    return _scaled(frame, width, height, form, scaler, options)


def _from_hdr(
    frame: av.VideoFrame, width: int, height: int, see_through: bool, signal: hdr.Signal, scaler: int
) -> np.ndarray:
    """The same. FFmpeg's scaler scales; of its colours it would lose 0.4 %, a level or two of PQ."""
    if signal.matrix == hdr.RGB:
        form = "rgba64le" if see_through else "rgb48le"
    else:
        form = "yuva444p16le" if see_through else "yuv444p16le"
    # The same range on both sides: numbers are shifted into the upper bits, and no more.
    options = {"src_color_range": LIMITED, "dst_color_range": LIMITED}
    converted = _scaled(frame, width, height, form, scaler, options)
    stored = np.asarray(converted.to_ndarray(), np.uint16)
    shown = hdr.to_sdr(np.ascontiguousarray(stored[..., :3]), signal)
    return np.concatenate([shown, (stored[..., 3:] >> 8).astype(np.uint8)], 2) if see_through else shown


class _Scalers(threading.local):
    """FFmpeg's scalers, of this thread: to set one up costs more than a picture."""

    def __init__(self) -> None:
        self.kept: dict[tuple, VideoReformatter] = {}


_SCALERS = _Scalers()
_MOST_SCALERS = 16


def _scaled(
    frame: av.VideoFrame, width: int, height: int, form: str, scaler: int, options: dict[str, Any]
) -> av.VideoFrame:
    kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
    kept, wanted = _SCALERS.kept, (*kind, width, height, form, scaler, *sorted(options.items()))
    if wanted not in kept:
        if len(kept) == _MOST_SCALERS:
            kept.pop(next(iter(kept)))
        kept[wanted] = VideoReformatter()
    return kept[wanted].reformat(frame, width, height, form, interpolation=scaler, **options)


def cropped_yuv(
    frame: av.VideoFrame, shown: tuple[int, int], box: tuple[int, int, int, int], signal: hdr.Signal | None = None
) -> av.VideoFrame:
    """What lies in a box of a frame, as H.264 takes it: yuv420p, BT.709, 16 to 235.

    shown: (width, height) of the frame as shown. box: (left, top, width, height) of that, all even.
    """
    left, top, width, height = box
    if signal is not None or is_see_through(frame) or not is_upright(frame):
        return to_yuv(pixels(frame, shown, signal)[top : top + height, left : left + width])
    # Many times quicker than by way of RGB. Copied even where nothing is cropped: of a decoder's own frames an encoder
    # does not make the same bytes twice.
    return _crop(_ordinary(frame, *shown, "yuv420p", SCALER), left, top, width, height)


def _crop(frame: av.VideoFrame, left: int, top: int, width: int, height: int) -> av.VideoFrame:
    """Of yuv420p; all even."""
    planes = []
    for plane, part in zip(frame.planes, (1, 2, 2), strict=True):
        stored = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = stored[top // part : (top + height) // part, left // part : (left + width) // part]
        planes.append(np.ascontiguousarray(stored).ravel())
    return av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(height * 3 // 2, width), format="yuv420p")


def scaled_yuv(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Of yuv420p."""
    if (frame.width, frame.height) == (width, height):
        return frame
    return _scaled(frame, width, height, frame.format.name, SCALER, {})


def to_yuv(image: np.ndarray) -> av.VideoFrame:
    """(h, w, 3) bytes, even sides, as H.264 takes it: BT.709, 16 to 235."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    # The source's matrix is none: see `pixels`.
    options = {"src_colorspace": BT601, "dst_colorspace": BT709, "dst_color_range": LIMITED}
    return _scaled(frame, frame.width, frame.height, "yuv420p", SCALER, options)


def as_bt709(context: av.VideoCodecContext) -> None:
    """Say in the file what `to_yuv` makes."""
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED
