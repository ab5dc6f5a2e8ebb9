"""Frames of a video as scenes are looked for in them, and how they compare: each with each, by one matrix.

What frames look like is 64x36 pixels of luma without their mean; how unlike two are is 1 - their correlation. Of all
products of frames with each other near a place mixtures are solved by least squares: of a frame x between a and b, the
share of b is <x - a, b - a> / |b - a|^2, and what is left over is no mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

SIZE = (64, 36)
BLANK = 0.012  # deviation of luma, of 1, below which a frame shows nothing
AGAIN = 0.6  # how much two frames of one scene correlate at least
BACK = 0.3  # of how far a picture had gone: it is back again where it is no further away, squared
BESIDE = (1, 3, 6)  # frames before and behind a change that are looked for on its other side
STILL = 0.0005  # squared difference, of 1: nothing happened
MOVED = 0.85  # how alike two frames are at least, once one is moved onto the other, where a camera pans


@dataclass
class Frames:
    """What is kept of the frames around the place that is decided next; `base` is the number of the first."""

    base: int = 0
    seconds: list[float] = field(default_factory=list)
    luma: list[np.ndarray] = field(default_factory=list)  # (2304,) float32 without mean
    level: list[float] = field(default_factory=list)  # the mean
    small: list[np.ndarray] = field(default_factory=list)  # (27, 48, 3) bytes

    @property
    def end(self) -> int:
        """The number of the next one."""
        return self.base + len(self.luma)

    def drop(self, before: int) -> None:
        count = max(0, before - self.base)
        for values in (self.seconds, self.luma, self.level, self.small):
            del values[:count]
        self.base += count


class View:
    """The frames around a place, compared each with each. Numbers are those of the video's frames."""

    def __init__(self, frames: Frames) -> None:
        self.base, self.end = frames.base, frames.end
        self.luma = luma = np.stack(frames.luma)
        self.products = (luma @ luma.T).astype(np.float64)
        self.square = np.diag(self.products).copy()
        self.least = 2 * luma.shape[1] * BLANK**2
        self.contrast = np.sqrt(self.square / luma.shape[1])
        self.level = np.array(frames.level)

    def unlike(self, a: int | np.ndarray, b: int | np.ndarray) -> np.ndarray:
        """1 - correlation, for frames of equal contrast; about 0 between two that show nothing."""
        a, b = a - self.base, b - self.base
        both = self.square[a] + self.square[b]
        return (both - 2 * self.products[a, b]) / (both + self.least)

    def away(self, a: int | np.ndarray, b: int | np.ndarray) -> np.ndarray:
        """How far frames are from each other as they are, light too: the mean of squared differences."""
        a, b = a - self.base, b - self.base
        shape = np.maximum(self.square[a] + self.square[b] - 2 * self.products[a, b], 0) / self.luma.shape[1]
        return shape + np.square(self.level[a] - self.level[b])

    def correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which light does not change; 0 where a frame shows nothing."""
        a, b = a - self.base, b - self.base
        scale = np.sqrt(np.maximum(self.square[a], self.least / 2) * np.maximum(self.square[b], self.least / 2))
        return self.products[a, b] / scale

    def mixtures(self, first: np.ndarray, last: np.ndarray, between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows (w,) and numbers of frames in each (w, n) -> share of the last, what is left over as a part of their
        distance; both (w, n)."""
        i, k, j = first[:, None] - self.base, last[:, None] - self.base, between - self.base
        distance = np.maximum(self.square[i] + self.square[k] - 2 * self.products[i, k], 1e-9)
        along = self.products[j, k] - self.products[j, i] - self.products[i, k] + self.square[i]
        away = self.square[j] + self.square[i] - 2 * self.products[j, i]
        share = along / distance
        return share, np.sqrt(np.maximum(away / distance - share**2, 0))

    def dip(self, first: int, last: int, between: np.ndarray, share: np.ndarray) -> float:
        """How much contrast frames lose that hold some of both ends, as a part of what a mixture loses."""
        share = np.clip(share, 0, 1)
        mixed = (share > 0.2) & (share < 0.8)
        if not mixed.any():
            return 0.0
        i, k, share, j = first - self.base, last - self.base, share[mixed], between[mixed] - self.base
        usual = (1 - share) * self.square[i] + share * self.square[k]
        expected = 2 * share * (1 - share) * (usual - self.products[i, k])
        return float((usual - self.square[j]).sum() / max(expected.sum(), 1e-9))


def moved(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a picture is another one that was moved by a pixel at least, but for its edges."""
    window = cv2.createHanningWindow(SIZE, cv2.CV_32F)
    # Copies: it writes what it looks at through the window over what it is given.
    across, down = (round(v) for v in cv2.phaseCorrelate(one.copy(), other.copy(), window)[0])
    if not 1 <= max(abs(across), abs(down)) < min(SIZE) // 2:
        return False
    a = one[max(0, -down) : SIZE[1] - max(0, down), max(0, -across) : SIZE[0] - max(0, across)]
    b = other[max(0, down) : SIZE[1] - max(0, -down), max(0, across) : SIZE[0] - max(0, -across)]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum()) > MOVED * float(np.sqrt((a * a).sum() * (b * b).sum()))


def again(view: View, first: int, last: int) -> bool:
    """Whether two frames are of the same scene."""
    return bool(view.correlation(np.asarray(first), np.asarray(last)) > AGAIN)


def is_back(view: View, first: int, last: int, least: int, most: int, hidden: int, step: int) -> bool:
    """Whether what is just before a change comes back behind it, or what is just behind it was there before.

    least, most: frames between which nothing else happens. hidden: frames that a scene may be away for.
    """
    for forward in (True, False):
        for near in BESIDE:
            here = first - near * step if forward else last + (near - 1) * step
            if not max(least, view.base) <= here < min(most, view.end):
                continue
            if forward:
                others = np.arange(here, min(most, view.end, here + hidden))
                beyond = others >= last
            else:
                others = np.arange(here, max(least, view.base, here - hidden) - 1, -1)
                beyond = others < first
            # What goes through black is a fade.
            beyond &= np.logical_and.accumulate(view.contrast[others - view.base] >= BLANK)
            if (comes_back(view, here, others) & beyond).any():
                return True
    return False


def comes_back(view: View, here: int, others: np.ndarray) -> np.ndarray:
    """At which of frames, in order, a picture is again, which was gone meanwhile; of all of them."""
    away = view.away(here, others)
    gone = np.maximum.accumulate(away)
    return (away < BACK * gone) & (gone > STILL)


def ragged(masks: np.ndarray, where: np.ndarray) -> float:
    """How much of the masks (n, h, w) is border between what is in and what is not, looking at a part of them."""
    across = (masks[:, :, 1:] != masks[:, :, :-1])[:, where[:, 1:] & where[:, :-1]]
    down = (masks[:, 1:] != masks[:, :-1])[:, where[1:] & where[:-1]]
    return float((across.mean(1) + down.mean(1)).mean()) if across.size and down.size else 1.0
