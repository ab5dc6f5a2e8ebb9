"""Interlaced video: of the two fields of a frame, seen one after the other, the picture at the first one's time.

By bwdif, the BBC's and yadif's ways together, as FFmpeg's libavfilter has it: lines of the first field stay, those
between them are made from their surroundings, in this frame and both its neighbours.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction

import av
import av.error
import av.filter

from ...errors import CannotShow


class Deinterlacer:
    """Frames of one video, in the order they are shown, go in; as many come out, with their times.

    What is not interlaced, by what the file says of each frame, comes out as it is. From the first interlaced frame on
    they come out one late. A frame is the same wherever one starts, as long as the one before it went in.
    """

    def __init__(self) -> None:
        self.before: av.VideoFrame | None = None  # the first interlaced frame's neighbour
        self.filter: av.filter.Graph | None = None  # there is none until it is needed
        self.kind: tuple = ()
        # Of frames in the filter: when each is shown. None: it came out before, and is there as a neighbour.
        self.waiting: deque[tuple[int | None, Fraction | None] | None] = deque()

    def take(self, frame: av.VideoFrame) -> list[av.VideoFrame]:
        """Those that are finished by this one. Raises CannotShow where there is no bwdif."""
        kind = (frame.width, frame.height, frame.format.name)
        done = self.rest() if kind != self.kind else []
        self.kind = kind
        if self.filter is None:
            if not frame.interlaced_frame:
                self.before = frame
                return [*done, frame]
            self.filter = _bwdif(frame)
            if self.before is not None:
                self.waiting.append(None)
                self._put(self.filter, self.before)
        self.waiting.append((frame.pts, frame.time_base))
        return [*done, *self._put(self.filter, frame)]

    def rest(self) -> list[av.VideoFrame]:
        """What waits for a frame after it, at the end; or where frames of another size follow."""
        done = [] if self.filter is None else self._put(self.filter, None)
        self.filter = self.before = None
        return done

    def _put(self, graph: av.filter.Graph, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        graph.vpush(frame)
        done = []
        while True:
            try:
                finished = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return done
            shown = self.waiting.popleft()
            if shown is not None:
                finished.pts, finished.time_base = shown  # the filter counts in halves
                done.append(finished)


def check_deinterlacing() -> None:
    """Raises CannotShow where there is no bwdif."""
    if "bwdif" not in av.filter.filters_available:
        raise CannotShow("interlaced: this FFmpeg has no filter bwdif to make whole frames; install PyAV's own build")


def _bwdif(like: av.VideoFrame) -> av.filter.Graph:
    check_deinterlacing()
    graph = av.filter.Graph()
    start = graph.add_buffer(
        width=like.width, height=like.height, format=like.format, time_base=like.time_base or Fraction(1, 1000)
    )
    nodes = start, graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), graph.add("buffersink")
    graph.link_nodes(*nodes).configure()
    return graph
