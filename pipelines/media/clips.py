"""Pieces of a video, each encoded into an mp4 of its own, in one way through the video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import av.error
import numpy as np

from ...errors import CannotWrite
from ...files import whole
from .frames import as_bt709, cropped_yuv, scaled_yuv
from .playback import Clock, opened, packets, rate, why
from .viewer import Viewer


@contextmanager
def written(target: Path, movflags: str = "faststart") -> Iterator[av.container.OutputContainer]:
    """An mp4 that is there whole, or not at all and what was there stays. Raises CannotWrite."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            whole(target) as temporary,
            av.open(str(temporary), "w", format="mp4", options={"movflags": movflags}) as out,
        ):
            yield out
    except (av.error.FFmpegError, OSError) as error:
        raise CannotWrite(f"{target} cannot be written ({why(error)}); choose another place.") from error


class Played:
    """All frames of a video in the order they are shown, whole, each with its time as its `pts`; to be iterated once.

    Iterating raises InputError where the file cannot be opened, or read to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.viewer: Viewer | None = None  # once the first frame is there
        self.clock: Clock | None = None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        with opened(self.path) as (container, viewer):
            viewer.stream.codec_context.thread_count = 1  # the cores have other videos to do
            self.viewer, self.clock = viewer, Clock(container, viewer)
            yield from viewer.whole(self._shown(container, viewer, self.clock))

    def _shown(self, container: av.container.InputContainer, viewer: Viewer, clock: Clock) -> Iterator[av.VideoFrame]:
        for packet in packets(self.path, container, [viewer.stream]):
            yield from clock.frames(packet)


@dataclass(frozen=True)
class Piece:
    """What becomes a file. Times are those that `playback.Clock` gives frames."""

    first: int  # when the first and the last of its frames are shown
    last: int
    shown: tuple[int, int]  # width and height that frames are taken to have
    box: tuple[int, int, int, int]  # left, top, width, height of what is kept of that; all even
    size: tuple[int, int]  # width and height in the file; even
    still: int | None = None  # the frame that is wanted as a picture too


class Cutter:
    """Goes through a video once, encoding the pieces it is asked for, which come in their order."""

    def __init__(self, source: Path, *, crf: int, speed: str) -> None:
        # The same bytes whenever and wherever: one thread; and without x264's macroblock tree, whose quick code reads
        # memory that nobody has written.
        self.options: dict[str, object] = {"crf": str(crf), "preset": speed, "x264-params": "threads=1:mbtree=0"}
        self.played = Played(source)
        self.frames = iter(self.played)
        self.waiting: av.VideoFrame | None = None  # the first one behind the last piece

    def cut(self, piece: Piece, target: Path) -> np.ndarray | None:
        """The still that is asked for, (h, w, 3) bytes. The file is there whole or not at all. Raises InputError."""
        still, stream = None, None
        with written(target) as out:
            while (frame := self._next()) is not None:
                assert frame.pts is not None  # the clock has given it one
                if frame.pts > piece.last:
                    self.waiting = frame
                    break
                if frame.pts < piece.first:
                    continue
                viewer = self.played.viewer
                assert viewer is not None  # it came with the frame
                yuv = scaled_yuv(cropped_yuv(frame, piece.shown, piece.box, viewer.signal(frame)), *piece.size)
                if stream is None:
                    stream = self._stream(out, viewer, piece.size)
                yuv.pts, yuv.time_base = frame.pts - piece.first, viewer.unit
                yuv.pict_type = 0  # the encoder's choice, where the source's came along
                out.mux(stream.encode(yuv))
                if frame.pts == piece.still:
                    left, top, width, height = piece.box
                    still = viewer.pixels(frame, piece.shown)[top : top + height, left : left + width]
            if stream is not None:
                out.mux(stream.encode())
        return still

    def _next(self) -> av.VideoFrame | None:
        frame, self.waiting = self.waiting, None
        return frame if frame is not None else next(self.frames, None)

    def _stream(self, out: av.container.OutputContainer, viewer: Viewer, size: tuple[int, int]) -> av.VideoStream:
        stream = out.add_stream("libx264", rate=rate(viewer.stream))
        stream.width, stream.height = size
        stream.pix_fmt, stream.options = "yuv420p", self.options
        stream.codec_context.time_base = viewer.unit
        as_bt709(stream.codec_context)
        return stream

    def close(self) -> None:
        self.frames.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator


COPIED = ("h264", "hevc")  # that players expect in an mp4


class Copier:
    """Goes through a video once, taking pieces of it as they are stored, which come in their order.

    A piece begins with a key frame and ends before one, so that every frame in it can be decoded and none is of what
    comes before or after.
    """

    def __init__(self, source: Path, loss: float) -> None:
        self.source, self.loss = source, loss  # seconds that a piece may lose at each end
        self.held: list[av.Packet] = []  # from a key frame on
        self.ended = False
        self.steps = self._read()

    def copy(self, piece: Piece, target: Path) -> tuple[int, int] | None:
        """When the first and the last frame of what was copied are shown; None: key frames do not allow it, and nothing
        was written. Raises CannotWrite."""
        while not self.ended and not (self.held and self._starts(self.held[-1], piece.last + 1)):
            next(self.steps)
        keys = [k for k, packet in enumerate(self.held) if self._starts(packet, piece.first)]
        whole_ = [*keys, *([len(self.held)] if self.ended else [])]
        found = None
        if len(whole_) > 1 and all(packet.pts is not None for packet in self.held):
            first = self._time(self.held[keys[0]])
            ends = [k for k in whole_ if k > keys[0] and self._last(keys[0], k) <= piece.last]
            if ends and self._seconds(first - piece.first) <= self.loss:
                last = self._last(keys[0], ends[-1])
                if self._seconds(piece.last - last) <= self.loss:
                    self._write([p for p in self.held[keys[0] : ends[-1]] if self._time(p) >= first], first, target)
                    found = first, last
        self.held = self.held[keys[-1] :] if keys else self.held
        return found

    def _read(self) -> Iterator[None]:
        with opened(self.source) as (container, viewer):
            self.stream, self.unit = viewer.stream, viewer.unit
            self.late = Clock(container, viewer).late
            plain = viewer.stream.codec_context.name in COPIED and viewer.stream.sample_aspect_ratio in (None, 0, 1)
            for packet in packets(self.source, container, [viewer.stream]) if plain else ():
                if packet.dts is not None:
                    self.held.append(packet)
                    yield
            self.ended = True
            while True:  # open: what is written is written like its stream
                yield

    def _starts(self, packet: av.Packet, time: int) -> bool:
        return packet.is_keyframe and packet.pts is not None and self._time(packet) >= time

    def _time(self, packet: av.Packet) -> int:
        assert packet.pts is not None  # it was asked before
        return packet.pts - self.late

    def _last(self, first: int, end: int) -> int:
        return max(self._time(packet) for packet in self.held[first:end])

    def _seconds(self, time: int) -> float:
        return float(time * self.unit)

    def _write(self, part: list[av.Packet], first: int, target: Path) -> None:
        with written(target) as out:
            stream = out.add_stream_from_template(self.stream)
            for packet in part:
                copy = av.Packet(bytes(packet))
                assert packet.pts is not None
                assert packet.dts is not None
                copy.pts, copy.dts = packet.pts - self.late - first, packet.dts - self.late - first
                copy.time_base, copy.duration, copy.is_keyframe = packet.time_base, packet.duration, packet.is_keyframe
                copy.stream = stream
                out.mux(copy)

    def close(self) -> None:
        self.steps.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
