"""Shots one after the other, and what lies between and upon them: frames, and the truth about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from ..rows import CUT, DISSOLVE, FADE
from .texture import Array
from .world import Footage, Scene, paste


class Span(NamedTuple):
    """Seconds from the video's first frame on. end: of the first frame that is no longer part of it; a cut has none
    between, and both are the new scene's first frame."""

    kind: str
    start: float
    end: float
    how: str = ""  # black, white; left, down, circle
    alike: bool = False  # one place on both sides


class Box(NamedTuple):
    """Pixels of the video as it is shown."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Join:
    """From one shot to the next. frames: so many that are neither; both shots go on meanwhile."""

    kind: str = CUT
    frames: int = 0
    how: str = ""  # of a fade: black, white. of a wipe: left, down, circle
    hold: float = 0.0  # part of a fade that shows nothing
    alike: bool = False


@dataclass(frozen=True)
class Shot:
    """frames: those that show it alone. begin: its own time at its first frame, seconds."""

    footage: Footage
    frames: int
    begin: float = 0.0


@dataclass(frozen=True)
class Effect:
    """What is done to frames from first to last, which is not of them. change(frame, number from first on) -> frame."""

    first: int
    last: int
    change: Callable[[Array, int], Array]


@dataclass
class Reel:
    """A video before it is written. joins: one fewer than shots.

    What else is known of it goes from a first frame to a last one, which is not of it any more: events, which are no
    transitions; pictures, where they do not fill the frame; overlays.
    """

    size: tuple[int, int]  # height, width
    rate: Fraction  # frames a second
    shots: Sequence[Shot]
    joins: Sequence[Join]
    effects: list[Effect] = field(default_factory=list)
    events: list[tuple[str, int, int]] = field(default_factory=list)
    pictures: list[tuple[Box, int, int]] = field(default_factory=list)
    overlays: list[tuple[str, Box, int, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(shot.frames for shot in self.shots) + sum(join.frames for join in self.joins)

    def first(self, number: int) -> int:
        """A shot's first frame that shows it alone."""
        return sum(s.frames for s in self.shots[:number]) + sum(j.frames for j in self.joins[:number])

    def spans(self, times: Sequence[float]) -> list[Span]:
        """The transitions. times: of the frames, and when the last one ends."""
        ends = [self.first(number + 1) for number in range(len(self.joins))]
        return [
            Span(join.kind, times[end - join.frames], times[end], join.how, join.alike)
            for join, end in zip(self.joins, ends, strict=True)
        ]

    def happened(self, times: Sequence[float]) -> list[Span]:
        """The events."""
        return [Span(kind, times[first], times[last]) for kind, first, last in self.events]

    def frames(self) -> Iterator[Array]:
        """(h, w, 3) bytes each."""
        number = 0
        for k, (shot, join) in enumerate(zip(self.shots, (*self.joins, Join()), strict=True)):
            before = self.joins[k - 1].frames if k else 0
            for n in range(shot.frames):
                yield self._changed(self._of(k, before + n), number)
                number += 1
            for n in range(join.frames):
                mixed = mix(self._of(k, before + shot.frames + n), self._of(k + 1, n), join, n)
                yield self._changed(mixed, number)
                number += 1

    def _of(self, number: int, place: int) -> Array:
        shot = self.shots[number]
        return shot.footage.frame(shot.begin + place / float(self.rate), self.size)

    def _changed(self, frame: Array, number: int) -> Array:
        for effect in self.effects:
            if effect.first <= number < effect.last:
                frame = effect.change(frame, number - effect.first)
        return frame


def weights(join: Join, number: int) -> tuple[float, float]:
    """Parts of the old and the new scene in a dissolve's or fade's frame; what is missing to 1 is the fade's colour."""
    new = (number + 1) / (join.frames + 1)
    if join.kind == DISSOLVE:
        return 1 - new, new
    half = (1 - join.hold) / 2
    return max(0.0, 1 - new / half), max(0.0, 1 - (1 - new) / half)


def mix(old: Array, new: Array, join: Join, number: int) -> Array:
    """The frame of that number in a gradual change."""
    if join.kind in (DISSOLVE, FADE):
        a, b = weights(join, number)
        colour = 255 * (1 - a - b) if join.how == "white" else 0
        return (old * np.float32(a) + new * np.float32(b) + np.float32(colour + 0.5)).astype(np.uint8)
    return np.where(wiped(join, number, old.shape[:2])[..., None], new, old)


def wiped(join: Join, number: int, size: tuple[int, int]) -> Array:
    """(h, w): where a wipe has come to the new scene already."""
    (h, w), part = size, (number + 1) / (join.frames + 1)
    y, x = np.mgrid[0:h, 0:w]
    if join.how == "left":
        return x >= round((1 - part) * w)
    if join.how == "down":
        return y < round(part * h)
    return np.hypot(y - h / 2, x - w / 2) < part * math.hypot(h, w) / 2


# -- what looks like a transition and is none ------------------------------------------------------------------------


def brighter(strength: Sequence[float]) -> Callable[[Array, int], Array]:
    """Flashes: each frame by its strength towards white, 0 to 1, over and over."""

    def change(frame: Array, number: int) -> Array:
        part = strength[number % len(strength)]
        return (frame * np.float32(1 - part) + np.float32(255 * part + 0.5)).astype(np.uint8)

    return change


def dimmed(gain: float) -> Callable[[Array, int], Array]:
    """Before the lights go on."""
    return lambda frame, number: (frame * np.float32(gain) + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Whipped:
    """A camera that is turned so far sideways, in frame heights, within some seconds of its scene."""

    scene: Scene
    start: float
    end: float
    far: float
    exposure: float = 1 / 50  # seconds

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        a, b = self._at(seconds), self._at(seconds + self.exposure)
        if a == b:
            return self.scene.frame(seconds, size, (a, 0))
        return self.scene.panned(seconds, size, a, b)

    def _at(self, seconds: float) -> float:
        part = min(1.0, max(0.0, (seconds - self.start) / (self.end - self.start)))
        return self.far * (3 - 2 * part) * part**2


@dataclass(frozen=True)
class Crossed:
    """Something large goes by close to the camera within some seconds."""

    footage: Footage
    start: float
    end: float
    texture: list[Array]
    radius: float  # in frame heights
    back: bool = False  # from right to left

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        image = self.footage.frame(seconds, size)
        part = (seconds - self.start) / (self.end - self.start)
        if 0 <= part <= 1:
            reach = size[1] / size[0] / 2 + self.radius
            paste(image, self.texture, ((2 * part - 1) * reach * (-1 if self.back else 1), 0.1), self.radius)
        return image
