"""What was laid over a clip: a logo, a tiled watermark.

An edge of the picture moves with what it is of; the edges of a mark stay on the same pixels, are sharp, stand apart
from others, near a corner. None of that is sure alone, above all where the camera stands still. So every place that may
be a mark (marks.py) is judged by all of it. What comes again all over the picture at even steps is a
watermark (tiled.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .marks import Slopes, Sums, candidates, placed, slopes, traits
from .still import Rectangle
from .tiled import tiles

FEWEST, MOST = 4, 12  # frames that tell anything; that are looked at
SURE, DOUBTFUL = 2.0, 1.0  # of all that is said: it is a mark; it may be one, where hardly anything moves
PLACES = 8  # that are told of a clip
AS_SURE = 0.3  # less, and one place is as sure as another
NEAR, REMOTE = {"from side": 8.7, "from top": 12.9, "at edge": 163.6}, 5.0  # farther off, a place is not looked at
STILL = 0.25  # of the edges' energy: less is of edges that move
TILED = 9.8  # deviations above chance, times the part of the places where it comes again
# A place is judged in three ways, each of them all traits added up, from -1 to 1 (tanh), and what these say is added
# up. The numbers are those of a network of one hidden layer, found by descent: cross-entropy of all places of corpora
# that `dreamfactory curate-quality --scale full` makes, traits as deviations from their mean, weights decaying; a
# clip's places count less the more there are of them, and those that are marks three times as much.
BASE, SAYS = -0.90, (2.29, 1.91, 1.89)
FIRST = (-1.41, -3.04, -2.73)
WEIGHTS = {
    "apart": (0.06, -0.28, -0.23),
    "still around": (1.45, -0.51, 0.79),
    "sharp": (0.45, 1.66, 1.51),
    "sharpest": (2.31, 1.70, 1.47),
    "from side": (-6.11, -2.67, -2.66),
    "from top": (-9.87, -4.61, -5.68),
    "at edge": (-117.87, -78.89, -38.75),
    "quiet": (0.05, 0.01, -0.67),
    "least": (0.47, 1.07, 1.01),
    "calm": (-0.16, -0.41, -1.75),
    "light": (1.32, 2.82, 0.93),
    "all moves": (0.97, 1.29, 1.54),
    "alike around": (-1.91, -1.50, -0.72),
    "height": (-0.26, -0.01, -0.48),
    "width": (-0.40, -0.25, -0.02),
    "filled": (0.74, 0.40, 0.26),
    "sharpest of all": (0.55, 0.54, 0.22),
    "area": (0.09, 0.10, 0.18),
}
Box = tuple[float, float, float, float]  # left, top, width, height: parts of the picture


@dataclass(frozen=True)
class Marks:
    """Of a clip. boxes: what is laid over it, of a tiled watermark one that is the whole; None: it cannot be told.
    maybe: the surest places, with how sure they are, which need not be enough."""

    boxes: list[Box] | None
    maybe: list[tuple[float, Box]]


def covered(boxes: Sequence[Box] | None) -> float | None:
    """The part of the picture under boxes, 0 to 1. None: it cannot be told."""
    return None if boxes is None else round(min(1.0, sum(w * h for _, _, w, h in boxes)), 5)


def marks(pictures: Sequence[np.ndarray]) -> Marks:
    """pictures: (h, w, 3) bytes each, of one scene, in order."""
    if len(pictures) < FEWEST:
        return Marks(None, [])
    picks = np.unique(np.linspace(0, len(pictures) - 1, MOST).round().astype(int))
    there = slopes([pictures[k] for k in picks])
    if tiles(there) >= TILED:
        return Marks([(0.0, 0.0, 1.0, 1.0)], [])
    sums = Sums(there)
    places = _rated(there, sums)
    found, apart = list[Rectangle](), list[tuple[float, Rectangle]]()
    for rating, box in places:
        if len(apart) < PLACES and not any(box.touches(other) for _, other in apart):
            as_sure = [one for other, one in places if other >= rating - AS_SURE and one.touches(box)]
            as_sure = [one for one in as_sure if not any(one.touches(other) for _, other in apart)]
            largest = max(as_sure, key=lambda one: one.area)  # not what is drawn inside of it
            apart.append((rating, largest))
            if rating >= SURE:
                found.append(largest)
    maybe = [(rating, _parts(box, there)) for rating, box in apart]
    if not found and places and places[0][0] >= DOUBTFUL and sums.moves < STILL:
        return Marks(None, maybe)
    return Marks([_parts(box, there) for box in found], maybe)


def _parts(box: Rectangle, there: Slopes) -> Box:
    """Left, top, width, height, of the picture."""
    height, width = there.height, there.width
    return box.left / width, box.top / height, box.width / width, box.height / height


def _rated(there: Slopes, sums: Sums) -> list[tuple[float, Rectangle]]:
    """The surest first."""
    found = []
    for one in candidates(there):
        if sum(NEAR[name] * value for name, value in placed(there, one.box).items()) <= REMOTE:
            found.append((_sure(traits(there, sums, one)), one.box))
    return sorted(found, reverse=True)


def _sure(traits: Mapping[str, float]) -> float:
    """How sure it is that a place with these traits (`marks.traits`) is a mark."""
    ways = [FIRST[k] + sum(WEIGHTS[name][k] * value for name, value in traits.items()) for k in range(len(FIRST))]
    return BASE + sum(said * math.tanh(way) for said, way in zip(SAYS, ways, strict=True))
