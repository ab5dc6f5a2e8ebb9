"""A video stream as a player shows it, whatever it holds: the one way from packets to pictures.

    viewer = Viewer(stream)                            # before anything of it is decoded
    for frame in viewer.whole(decoded frames):         # interlaced ones made whole; as many, at their times
        picture = viewer.pixels(frame)                 # upright, square pixels, HDR as ordinary video, on white

Ordinary video goes straight to frames.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import av.codec.codec
import numpy as np

from ...errors import CannotShow
from . import hdr
from .fields import Deinterlacer, check_deinterlacing
from .frames import FULL, SCALER, pixels, shown_size, side_data

UNSTATED = (0, hdr.UNSPECIFIED)
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders that read transparency where FFmpeg's own do not


class Viewer:
    """Of one stream, for one way through it. Raises CannotShow, "kind: what exactly", for what it cannot show."""

    def __init__(self, stream: av.VideoStream) -> None:
        self.stream, self.context = stream, stream.codec_context
        assert stream.time_base is not None  # FFmpeg gives every stream that it reads one
        self.unit = stream.time_base  # seconds one of its times is long
        # As the container states them: the decoder of HEVC forgets what its own headers do not repeat.
        self.stated = self.context.color_trc, self.context.color_primaries
        self.fields = Deinterlacer()
        if _has_alpha_beside(stream):
            self.context = _decoder(WITH_ALPHA[self.context.codec.canonical_name])

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Frames as the file has them."""
        return self.context.decode(packet)

    def whole(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """As many, with their times: see fields.Deinterlacer."""
        for frame in frames:
            yield from self.fields.take(frame)
        yield from self.fields.rest()

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height as shown."""
        return shown_size(frame, self.stream)

    def pixels(self, frame: av.VideoFrame, size: tuple[int, int] | None = None, scaler: int = SCALER) -> np.ndarray:
        """(height, width, 3) bytes. size: (width, height); None: the frame's own. scaler: of frames.py."""
        return pixels(frame, size or self.size(frame), self.signal(frame), scaler)

    def signal(self, frame: av.VideoFrame) -> hdr.Signal | None:
        """Of an HDR frame; None: it is ordinary video."""
        now = self.context.color_trc, self.context.color_primaries
        transfer, primaries = (s if n in UNSTATED else n for n, s in zip(now, self.stated, strict=True))
        if transfer not in (hdr.PQ, hdr.HLG):
            if transfer in UNSTATED and any(data.type.name == "DOVI_METADATA" for data in side_data(frame)):
                raise CannotShow("hdr: Dolby Vision without a base picture, as in its profile 5; save it as HDR10")
            return None
        matrix = frame.colorspace
        if frame.format.is_rgb:
            matrix = hdr.RGB
        elif matrix in (hdr.RGB, hdr.UNSPECIFIED):
            matrix = hdr.BT2020
        elif matrix not in hdr.RED_BLUE:
            raise CannotShow(
                f"hdr: its colours are stored by matrix {matrix} of H.273, which is not read; save it as HDR10"
            )
        return hdr.Signal(transfer, primaries, matrix, frame.color_range == FULL, frame.format.components[0].bits)

    def ways(self, frame: av.VideoFrame) -> str:
        """What is done to frames like this one, a video's first, that is not done to ordinary ones; with versions.

        It belongs into the key of whatever is computed from such frames and kept: a change here changes it.
        """
        if frame.interlaced_frame:
            check_deinterlacing()
        ways = {
            "hdr/1": self.signal(frame) is not None,
            "fields/1": frame.interlaced_frame,
            "alpha/1": self.context is not self.stream.codec_context or frame.format.has_palette,
        }
        return "+".join(way for way, is_done in ways.items() if is_done)


def _has_alpha_beside(stream: av.VideoStream) -> bool:
    """Whether transparency is a second stream in each packet, as WebM has it."""
    stated = {key.lower(): value for key, value in stream.metadata.items()}
    return stream.codec_context.codec.canonical_name in WITH_ALPHA and stated.get("alpha_mode") == "1"


def _decoder(name: str) -> av.VideoCodecContext:
    try:
        context = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError as error:
        raise CannotShow(
            f"transparent: this FFmpeg has no {name}, which reads what can be seen through; install PyAV's own build"
        ) from error
    assert isinstance(context, av.VideoCodecContext)  # as decoders of video are
    context.thread_type = "AUTO"
    return context
