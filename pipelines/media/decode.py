"""Videos and images from files or from inside tar shards: what they are, and some of their frames.

`probe` reads a video's packets, of which only the first is decoded; `read_frames` gives frames by number, exactly
(its callers choose which). Times are those the file states, so a variable frame rate is no trouble. Frames are as a
player shows them (pipelines/media/viewer.py): upright, with square pixels, whole, as ordinary video.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import av
import av.container
import av.error
import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import CannotShow, is_bug
from . import stills
from .frames import CONTAINERS
from .viewer import Viewer

# What FFmpeg and PIL raise on damaged files.
FAILURES = (
    av.error.FFmpegError, OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, SyntaxError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class Unreadable(ValueError):
    """Why a file cannot be used: "unreadable: what exactly"."""


class Stored(Protocol):
    """Where a video or image lies: a file, or a stretch of one, as a member of a tar does."""

    @property
    def path(self) -> Path: ...

    @property
    def offset(self) -> int:
        """Of its first byte in `path`."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes from there; None: the whole file."""
        ...

    @property
    def media(self) -> str:
        """video | image"""
        ...


@dataclass(frozen=True, eq=False)
class Probe:
    """A video or image (one frame) as it is shown."""

    width: int
    height: int
    pts: np.ndarray  # (n,) int64, when each frame is shown, as the file counts time
    unit: float  # seconds one of these counts is long
    keys: np.ndarray  # numbers of the frames that decoding can start at
    counted: bool = False  # whether a frame is found by counting, because the file does not say when each is shown
    ways: str = ""  # what is done to its frames that is not done to ordinary ones (Viewer.ways): of cached values

    @property
    def needs_neighbours(self) -> bool:
        """Whether a frame is made from the one before it too."""
        return "fields" in self.ways

    @cached_property
    def times(self) -> np.ndarray:
        """(n,) seconds, from 0 up."""
        return (self.pts - self.pts[0]) * self.unit

    @property
    def fps(self) -> float:
        """On average; 0 for a single frame."""
        return (len(self.pts) - 1) / float(self.times[-1]) if len(self.pts) > 1 else 0.0

    @property
    def duration(self) -> float:
        """Seconds; the last frame stays as long as most others."""
        return float(self.times[-1]) + self.interval

    @cached_property
    def interval(self) -> float:
        """Seconds from one frame to the next, mostly."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0


def probe(record: Stored) -> Probe:
    """Raises Unreadable."""
    try:
        if record.media == "video":
            return _probe_video(record)
        width, height = stills.shown_size(source_bytes(record))
        return Probe(width, height, np.zeros(1, np.int64), 0.0, np.zeros(1, np.int64))
    except (stills.SeveralPictures, CannotShow) as error:
        raise Unreadable(str(error)) from error
    except FAILURES as error:
        if is_bug(error):
            raise
        raise _unreadable(error) from error


def read_frames(record: Stored, probe: Probe, picks: Sequence[int]) -> np.ndarray:
    """(t, h, w, 3) uint8, the frames of these numbers, of which some may be the same. Raises Unreadable."""
    try:
        if record.media == "image":
            return np.stack([stills.pixels(source_bytes(record))] * len(picks))
        found = _decode(record, probe, set(picks))
    except CannotShow as error:
        raise Unreadable(str(error)) from error
    except FAILURES as error:
        if is_bug(error):
            raise
        raise _unreadable(error) from error
    lost = [k for k in picks if k not in found]
    if lost:
        raise Unreadable(f"unreadable: frame {lost[0]} of {len(probe.times)} cannot be decoded")
    return np.stack([found[k] for k in picks])


def _unreadable(error: Exception) -> Unreadable:
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, UnidentifiedImageError):
        return Unreadable("unreadable: it is no picture")
    return Unreadable(f"unreadable: {getattr(error, 'strerror', None) or error or type(error).__name__}")


def source_bytes(record: Stored) -> bytes:
    with record.path.open("rb") as file:
        file.seek(record.offset)
        data = file.read(-1 if record.size is None else record.size)
    if record.size is not None and len(data) < record.size:
        raise Unreadable("unreadable: the shard ends inside it")
    return data


# -- videos --------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(record: Stored) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, Viewer]]:
    # An absolute path: FFmpeg would take "12:30.mp4" for the address of a protocol "12".
    file = os.path.abspath(record.path) if record.size is None else io.BytesIO(source_bytes(record))
    with av.open(file, "r", metadata_errors="ignore", options={"format_whitelist": CONTAINERS}) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise Unreadable("unreadable: it has no video stream")
        yield container, stream, Viewer(stream)


def _probe_video(record: Stored) -> Probe:
    with _opened(record) as (container, stream, viewer):
        # AVI numbers packets in the order they are stored in, which need not be the one they are shown in.
        counted = "avi" in container.format.name
        first, packets = None, []
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(_frames_of(packet, viewer)), None)
            if packet.size and not packet.is_discard and not packet.is_corrupt:
                packets.append((packet.pts, packet.is_keyframe))
        if first is None:
            raise Unreadable("unreadable: no frame can be decoded")
        width, height = viewer.size(first)
        ways = viewer.ways(first)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        unit = float(viewer.unit)
    stamps = [p for p, _ in packets]
    if counted or None in stamps or len(set(stamps)) < len(stamps):
        count = _count(record)
        if not count:
            raise Unreadable("unreadable: no frame can be decoded")
        return Probe(width, height, np.arange(count), 1 / rate, np.zeros(1, np.int64), True, ways)
    packets.sort()
    keys = np.flatnonzero([key for _, key in packets])
    return Probe(width, height, np.array(sorted(stamps)), unit, keys, ways=ways)


def _frames_of(packet: av.Packet, viewer: Viewer) -> list[av.VideoFrame]:
    try:
        return viewer.decode(packet)
    except av.error.FFmpegError:  # a stretch without its keyframe, as a cut may begin with
        return []


def _count(record: Stored) -> int:
    with _opened(record) as (container, stream, viewer):
        stream.thread_type = "AUTO"
        return sum(1 for _ in _shown(container, viewer))


def _shown(container: av.container.InputContainer, viewer: Viewer) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown, from where the container stands."""
    for packet in container.demux(viewer.stream):
        # What the file's end cuts through is no frame; the decoder would lose the one before it as well.
        if not packet.is_corrupt:
            yield from viewer.decode(packet)


def _decode(record: Stored, probe: Probe, wanted: set[int], seek: bool = True) -> dict[int, np.ndarray]:
    """Frames by number, as many of the wanted ones as there are."""
    number = {} if probe.counted else {int(p): k for k, p in enumerate(probe.pts)}
    found: dict[int, np.ndarray] = {}
    first = max(0, min(wanted) - probe.needs_neighbours)
    with _opened(record) as (container, stream, viewer):
        stream.thread_type = "AUTO"
        start = probe.keys[probe.keys <= first]
        seek = seek and len(start) > 0 and start[-1] > 0
        if seek:
            container.seek(int(probe.pts[start[-1]]), stream=stream)
        count = -1
        for count, frame in enumerate(viewer.whole(_shown(container, viewer))):
            k = count if probe.counted else -1 if frame.pts is None else number.get(frame.pts, -1)
            if seek and count == 0 and not 0 <= k <= first:
                break  # the file's index leads astray: from its beginning, then
            if k in wanted:
                if frame.is_corrupt:
                    raise Unreadable(f"unreadable: frame {k} is damaged")
                found[k] = viewer.pixels(frame)
            if len(found) == len(wanted):
                return found
        else:
            if not seek or count >= 0:
                return found
            # Behind the last keyframe, where a transport stream may be led to: the same.
    return _decode(record, probe, wanted, seek=False)
