"""A video from its beginning to its end, in the order it is shown, each frame at its exact time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import av.container
import av.error
import av.stream

from ...errors import CannotShow, InputError
from .frames import CONTAINERS
from .viewer import Viewer

Frame = TypeVar("Frame", av.VideoFrame, av.AudioFrame)


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Viewer]]:
    try:
        # An absolute path: FFmpeg would take "12:30.mp4" for the address of a protocol "12".
        options = {"format_whitelist": CONTAINERS}
        container = av.open(os.path.abspath(path), metadata_errors="ignore", options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be opened as a video ({why(error)}); give an mp4, mov, mkv, webm, avi or gif file."
        ) from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            raise InputError(f"{path} has no video in it that can be decoded; give a file with a video stream.")
        stream.thread_type = "AUTO"
        try:
            yield container, Viewer(stream)
        except CannotShow as error:
            raise InputError(f"{path} cannot be shown; {error}.") from error


def why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def packets(
    path: Path, container: av.container.InputContainer, streams: Sequence[av.stream.Stream]
) -> Iterator[av.Packet]:
    try:
        yield from container.demux(streams)
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be read to its end ({why(error)}); copy or save it again.") from error


def decoded(packet: av.Packet, decode: Callable[[av.Packet], list[Frame]]) -> list[Frame] | None:
    """Frames of a packet; None: it is damaged, of a stretch without its keyframe, or cut through by the file's end."""
    try:
        return None if packet.is_corrupt else decode(packet)
    except av.error.FFmpegError:
        return None


class Clock:
    """When frames are shown, in the file's units from its start on: each later than the one before."""

    def __init__(self, container: av.container.InputContainer, viewer: Viewer) -> None:
        self.decode, stream = viewer.decode, viewer.stream
        self.start = Fraction(container.start_time or 0, av.time_base)  # seconds
        self.late = round(self.start / viewer.unit)
        self.step = max(1, round(1 / (rate(stream) * viewer.unit)))
        # AVI numbers packets in the order they are stored in: the frame shown next has the number next in store.
        self.store: deque[int] | None = deque() if "avi" in container.format.name else None
        self.last: int | None = None
        self.newest, self.length = -1, 0  # the packet shown last, and how long
        self.damaged = 0  # packets that cannot be decoded, and frames that can only in part

    def frames(self, packet: av.Packet) -> Iterator[av.VideoFrame]:
        """Of a packet, each with its time as its `pts`."""
        if packet.pts is not None and packet.pts > self.newest:
            self.newest, self.length = packet.pts, packet.duration or 0
        if self.store is not None and packet.dts is not None:
            self.store.append(packet.dts)
        frames = decoded(packet, self.decode)
        self.damaged += frames is None
        for frame in frames or ():
            self.damaged += frame.is_corrupt
            if self.store is None:
                stamp = frame.pts
            else:
                stamp = self.store.popleft() if self.store else None
            if self.last is None:
                self.last = 0 if stamp is None else stamp - self.late
            elif stamp is None:
                self.last += self.step
            else:
                self.last = max(stamp - self.late, self.last + 1)
            frame.pts = self.last
            yield frame


def rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)
