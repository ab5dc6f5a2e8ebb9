"""Pieces of a video, each encoded into an mp4 of its own, in one way through the video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import av.error
import numpy as np

from ...errors import CannotWrite, InputError
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

    def __init__(self, source: Path, *, crf: int, speed: str, step: Callable[[], object] = lambda: None) -> None:
        """step: called with every frame, to show that work goes on."""
        self.step = step
        # The same bytes whenever and wherever: one thread; and without x264's macroblock tree, whose quick code reads
        # memory that nobody has written.
        self.options: dict[str, object] = {"crf": str(crf), "preset": speed, "x264-params": "threads=1:mbtree=0"}
        self.played = Played(source)
        self.frames = iter(self.played)
        self.waiting: av.VideoFrame | None = None  # the first one behind the last piece

    def cut(self, piece: Piece, target: Path) -> np.ndarray | None:
        """The still that is asked for, (h, w, 3) bytes. The file is there whole or not at all. Raises InputError where
        the video cannot be read as far as the piece goes."""
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
                if frame.pts == piece.last:
                    break  # behind it there may be nothing that can be read
            if stream is not None:
                out.mux(stream.encode())
        return still

    def _next(self) -> av.VideoFrame | None:
        frame, self.waiting = self.waiting, None
        self.step()
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
HELD = 128 * 2**20  # bytes of packets: a piece that is larger is not copied


class Copier:
    """Goes through a video once, taking pieces of it as they are stored, which come in their order.

    A piece begins with a key frame and ends before one, so that every frame in it can be decoded and none is of what
    comes before or after. Held in memory is what can be a part of the piece that is asked for, and no more than `HELD`.
    """

    def __init__(self, source: Path, loss: float, *, step: Callable[[], object] = lambda: None) -> None:
        """step: called with every packet, to show that work goes on."""
        self.source, self.loss, self.step = source, loss, step  # seconds that a piece may lose at each end
        self.waiting: av.Packet | None = None  # the first one behind the last piece
        self.whole = False  # whether the file was read to its end
        self.packets = self._read()

    def copy(self, piece: Piece, target: Path) -> tuple[int, int] | None:
        """When the first and the last frame of what was copied are shown; None: key frames do not allow it, it is too
        large, or the file cannot be read as far, and nothing was written. Raises CannotWrite."""
        part = self._part(piece)
        if not part:
            return None
        first, last = self._time(part[0]), max(self._time(packet) for packet in part)
        if self._seconds(piece.last - last) > self.loss:
            return None
        self._write([packet for packet in part if self._time(packet) >= first], first, target)
        return first, last

    def _part(self, piece: Piece) -> list[av.Packet]:
        """Of a piece, from its first key frame up to one. Of what was read before a later one needs nothing."""
        held, end, size = list[av.Packet](), 0, 0
        while (packet := self._next()) is not None:
            if packet.pts is None:
                if held:
                    return []
                continue
            time = self._time(packet)
            if held and packet.is_keyframe:
                end = len(held)
            if time > piece.last:
                self.waiting = packet
                return held[:end]
            if not held and not (packet.is_keyframe and time >= piece.first):
                continue
            size += packet.size
            if size > HELD or (not held and self._seconds(time - piece.first) > self.loss):
                return []
            held.append(packet)
        return held if self.whole else held[:end]

    def _next(self) -> av.Packet | None:
        packet, self.waiting = self.waiting, None
        if packet is None:
            packet = next(self.packets)
            self.step()
        return packet

    def _read(self) -> Iterator[av.Packet | None]:
        with opened(self.source) as (container, viewer):
            self.stream, self.unit = viewer.stream, viewer.unit
            self.late = Clock(container, viewer).late
            plain = viewer.stream.codec_context.name in COPIED and viewer.stream.sample_aspect_ratio in (None, 0, 1)
            try:
                for packet in packets(self.source, container, [viewer.stream]) if plain else ():
                    if packet.dts is not None:
                        yield packet
                self.whole = True
            except InputError:
                pass  # where it breaks off, pieces are encoded from what can be decoded
            while True:  # open: what is written is written like its stream
                yield None

    def _time(self, packet: av.Packet) -> int:
        assert packet.pts is not None  # it was asked before
        return packet.pts - self.late

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
        self.packets.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
