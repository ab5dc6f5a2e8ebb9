"""One way through a video: which clips are in it, and what is seen of each. Nothing is written here.

    analysis = Analysis(path, config)
    for clip in analysis: ...        # a `Found`, as soon as it is certain, in order
    analysis.source                  # what is known of the whole, at the end

Each frame is decoded once, and looked at small; a few a second are kept, larger, until their clip is certain. So memory
depends on the longest clip, not on the video.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..errors import InputError
from ..pipelines.media.clips import Played
from ..pipelines.media.frames import QUICK, is_upright
from ..pipelines.media.structure import flaw
from ..pipelines.media.viewer import Viewer
from .config import CurationConfig
from .pictures import LONG, SMALL, Look, Pair, grey
from .rows import CUT, END, SPLIT, START, Source
from .scenes import CONTEXT, TransitionFinder
from .transition import Transition

LATER = 0.1  # seconds between two frames that motion is measured from
FEWEST = 4  # frames of the shortest clip that are looked at


@dataclass
class Found:
    """A clip: frames `first` to `last` of the video, both its own."""

    scene: int
    first: int
    last: int
    pts: np.ndarray  # (n,) when they are shown
    end: float  # seconds, when the last is no longer shown
    start: float
    begins_by: str
    ends_by: str
    looks: list[Look]


class Progress:
    """Of this process, for whoever asks whether it is still at work: whatever takes a while steps."""

    steps = 0

    def step(self) -> None:
        self.steps += 1


PROGRESS = Progress()


class Seconds(dict[str, float]):
    """Processor time by stage, each a step forward."""

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        begun = time.process_time()
        try:
            yield
        finally:
            self[stage] = self.get(stage, 0.0) + time.process_time() - begun
            PROGRESS.step()


class Analysis:
    """Of one video; to be iterated once. Raises InputError where it cannot be opened."""

    def __init__(self, path: Path, config: CurationConfig, seconds: Seconds) -> None:
        self.config, self.seconds = config, seconds
        self.played = Played(path)
        self.source = Source("")
        self.ordinary = False  # whether it is shown as it is stored
        self.pts: list[int] = []
        self.looks: list[Look] = []  # of clips that are not certain yet
        self.waiting: list[Look] = []  # for their pairs
        self.passed: tuple[av.VideoFrame, np.ndarray] | None = None  # the latest frame, if it was not looked at
        self.rate = max(config.scores.rate, FEWEST / config.clips.min_seconds)
        self.scene, self.start, self.begins_by = 0, 0, START
        self.finder: TransitionFinder | None = None  # once there is a frame
        self.transitions: list[tuple[str, float, float]] = []  # so far: kind, first frame, end; seconds

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown, of the first frame."""
        return self.source.width, self.source.height

    @property
    def unit(self) -> Fraction:
        assert self.played.viewer is not None  # once there is a frame
        return self.played.viewer.unit

    def __iter__(self) -> Iterator[Found]:
        try:
            yield from self._found()
        finally:
            if self.pts:
                self._sum_up()  # of a file that cannot be decoded any further too

    def _found(self) -> Iterator[Found]:
        finder = self.finder
        frames = self._decoded()
        for frame in frames:
            viewer = self.played.viewer
            assert viewer is not None  # it comes with the first frame
            assert frame.pts is not None  # the clock has given it one
            if finder is None:
                self.source.width, self.source.height = viewer.size(frame)
                self.ordinary = is_upright(frame) and not viewer.ways(frame)
                finder = TransitionFinder(self.config.scenes, float(viewer.stream.average_rate or 25))
                self.finder = finder
            with self.seconds.of("look"):
                small = viewer.pixels(frame, fitting(self.size, SMALL), QUICK)
                self.pts.append(frame.pts)
                self._look(frame, viewer, small)
            with self.seconds.of("scenes"):
                found = finder.put(self._time(len(self.pts) - 1), small)
            for transition in found:
                yield from self._until(transition)
            certain = finder.open.first if finder.open is not None else finder.decided - CONTEXT * finder.stride
            yield from self._split(certain)
        if finder is None:
            raise InputError(self.source.problem or f"{self.played.path} has no frame that can be decoded.")
        with self.seconds.of("scenes"):
            found = finder.finish()
        for transition in found:
            yield from self._until(transition)
        yield from self._close(len(self.pts) - 1, END)

    # -- frames -----------------------------------------------------------------------------------------------------

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Frames until the end, or until the file cannot be read any further."""
        frames = iter(self.played)
        while True:
            with self.seconds.of("decode"):
                try:
                    frame = next(frames, None)
                except InputError as error:
                    if not self.pts:
                        raise
                    self.source.problem = str(error)
                    return
            if frame is None:
                return
            yield frame

    def _look(self, frame: av.VideoFrame, viewer: Viewer, small: np.ndarray) -> None:
        now = self._time(len(self.pts) - 1)
        # One that stays may be all there is of a clip: with it each has a look, whatever the times of its frames.
        if self.passed is not None and now - self._time(len(self.pts) - 2) > 1 / self.rate:
            self._keep(*self.passed, viewer)
        self.passed = None
        while self.waiting and now - self._seconds(self.waiting[0].pts) >= LATER:
            look = self.waiting.pop(0)
            look.pair = Pair(self.pts[-1], now - self._seconds(look.pts), grey(small))
        if self.looks and now - self._seconds(self.looks[-1].pts) < 1 / self.rate - 1e-6:
            self.passed = frame, small
        else:
            self._keep(frame, small, viewer)

    def _keep(self, frame: av.VideoFrame, small: np.ndarray, viewer: Viewer) -> None:
        assert frame.pts is not None  # the clock has given it one
        rows, columns = _brightest(frame, viewer, self.size)
        picture = viewer.pixels(frame, fitting(self.size, LONG), QUICK)
        self.looks.append(Look(frame.pts, picture, rows, columns, grey(small)))
        self.waiting.append(self.looks[-1])

    def _seconds(self, pts: int) -> float:
        return float((pts - self.pts[0]) * self.unit)

    def _time(self, number: int) -> float:
        """Seconds from the first frame on."""
        return self._seconds(self.pts[number])

    def _begins(self, number: int) -> float:
        """The same, of the end of the last frame too."""
        return self._time(number) if number < len(self.pts) else self._ends(len(self.pts) - 1)

    def _ends(self, number: int) -> float:
        """When a frame is no longer shown."""
        if number + 1 < len(self.pts):
            return self._time(number + 1)
        return self._time(number) + (self._time(number) - self._time(number - 1) if number else 1 / 25)

    # -- scenes -----------------------------------------------------------------------------------------------------

    def _until(self, transition: Transition) -> Iterator[Found]:
        """The rest of a scene that ends, and the beginning of the next."""
        self.transitions.append((transition.kind, self._time(transition.first), self._begins(transition.last)))
        margin = self.config.scenes.cut_margin if transition.kind == CUT else self.config.scenes.margin
        last = transition.first - 1
        while last >= self.start and self._ends(last) > self._time(transition.first) - margin + 1e-9 and margin:
            last -= 1
        if transition.first > 0:
            yield from self._close(last, transition.kind)
        start = transition.last
        while margin and start < len(self.pts) and self._time(start) < self._time(transition.last) + margin - 1e-9:
            start += 1
        self.start, self.begins_by = start, transition.kind

    def _close(self, last: int, kind: str) -> Iterator[Found]:
        """The scene that ends with a frame."""
        if last < self.start:
            return  # two transitions side by side
        least, most = self.config.clips.min_seconds, self.config.clips.max_seconds
        yield from self._split(last + 1)
        length = self._ends(last) - self._time(self.start)
        while length > most + 1e-6:
            end = self._before(self.start, length / 2 if least <= length / 2 < most else most)
            if end >= last:
                break
            yield from self._clip(end, SPLIT)
            length = self._ends(last) - self._time(self.start)
        if length >= least - 1e-6:
            yield from self._clip(last, kind)
        elif self.begins_by != SPLIT:
            self.source.too_short += 1
        self.scene += 1

    def _split(self, certain: int) -> Iterator[Found]:
        """Clips of a scene that is longer than one, as far as it goes on for certain: up to a frame, not with it."""
        least, most = self.config.clips.min_seconds, self.config.clips.max_seconds
        while certain - 1 > self.start and self._time(certain - 1) - self._time(self.start) > most + least:
            yield from self._clip(self._before(self.start, most), SPLIT)

    def _before(self, start: int, seconds: float) -> int:
        """The last frame that is no longer shown so many seconds after the beginning of another; a later one, if what
        lies between would be too short for a clip."""
        until = self.pts[start] + round(Fraction(seconds) / self.unit)
        enough = self.pts[start] + (self.config.clips.min_seconds - 1e-6) / float(self.unit)
        return max(start, bisect_right(self.pts, until) - 2, bisect_left(self.pts, enough) - 1)

    def _clip(self, last: int, ends_by: str) -> Iterator[Found]:
        first, pts = self.start, np.array(self.pts[self.start : last + 1])
        looks = [look for look in self.looks if pts[0] <= look.pts <= pts[-1]]
        for look in looks:
            if look.pair is not None and look.pair.pts > pts[-1]:
                look.pair = None
        self.looks = [look for look in self.looks if look.pts > pts[-1]]
        found = Found(self.scene, first, last, pts, self._ends(last), self._time(first), self.begins_by, ends_by, looks)
        self.start, self.begins_by = last + 1, SPLIT
        yield found

    def _sum_up(self) -> None:
        assert self.played.clock is not None
        self.source.frames, self.source.damaged = len(self.pts), self.played.clock.damaged
        self.source.duration = round(self._ends(len(self.pts) - 1), 6)
        self.source.scenes = self.scene
        with suppress(OSError):  # taken away meanwhile; what was read of it was read
            if not self.source.problem and (wrong := flaw(self.played.path)):
                self.source.problem = f"{self.played.path} {wrong}; copy or save it again."


def fitting(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Width and height of a smaller picture of that shape."""
    scale = min(1.0, longer / max(size))
    return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))


def _brightest(frame: av.VideoFrame, viewer: Viewer, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The largest luma of every row and column as shown."""
    luma = grey(viewer.pixels(frame, size, QUICK))
    return luma.max(1), luma.max(0)
