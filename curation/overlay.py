"""What was laid over a clip: a logo, a tiled watermark. Without weights of a network.

An edge of the picture moves with what it is of; the edges of a mark stay on the same pixels, are sharp, stand apart
from others, near a corner. None of that is sure alone, above all where the camera stands still. So every place that may
be a mark (marks.py) is judged by all of it, added up. What comes again all over the picture at even steps is a
watermark (tiled.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .marks import Slopes, Sums, candidates, placed, slopes, traits
from .still import Rectangle
from .tiled import tiles

FEWEST, MOST = 4, 12  # frames that tell anything; that are looked at
SURE, DOUBTFUL = 0.5, -0.3  # of all that is said: it is a mark; it may be one, where hardly anything moves
REMOTE = -5.0  # of what is said of a place alone: what it looks like would not make up for it
STILL = 0.25  # of the edges' energy: less is of edges that move
TILED = 11.5  # deviations above chance
# How much each trait of a place speaks for a mark: a logistic regression over the places of the corpus that
# `dreamfactory curate-quality --scale full` makes.
BASE = -5.041
WEIGHTS = {
    "share": 0.340,
    "still share": 0.279,
    "apart": -0.874,
    "still around": -1.424,
    "edges around": 0.857,
    "sharp": 1.887,
    "sharpest": 4.725,
    "from side": -8.699,
    "from top": -12.882,
    "at edge": -163.569,
    "restless": -1.345,
    "moves": -3.288,
    "moves around": 0.625,
    "all moves": 3.293,
    "all still": 2.293,
    "differs": 2.309,
    "plain": -1.097,
    "full": -0.387,
    "steep": -0.281,
    "height": -0.410,
    "width": -0.776,
}
Box = tuple[float, float, float, float]


def overlay(pictures: Sequence[np.ndarray]) -> float | None:
    """The part of the picture under boxes around it, 0 to 1. None: it cannot be told."""
    boxes = overlay_boxes(pictures)
    if boxes is None:
        return None
    return round(min(1.0, sum(w * h for _, _, w, h in boxes)), 5)


def overlay_boxes(pictures: Sequence[np.ndarray]) -> list[Box] | None:
    """(left, top, width, height), parts of the picture; of a tiled watermark one that is the whole."""
    if len(pictures) < FEWEST:
        return None
    picks = np.unique(np.linspace(0, len(pictures) - 1, MOST).round().astype(int))
    there = slopes([pictures[k] for k in picks])
    if tiles(there) >= TILED:
        return [(0.0, 0.0, 1.0, 1.0)]
    rated = _rated(there)
    found = list[Rectangle]()
    for rating, box in rated:
        if rating >= SURE and not any(box.touches(other) for other in found):
            found.append(box)
    if not found and rated and rated[0][0] >= DOUBTFUL and _moving(there) < STILL:
        return None
    height, width = there.height, there.width
    return [(b.left / width, b.top / height, b.width / width, b.height / height) for b in found]


def _rated(there: Slopes) -> list[tuple[float, Rectangle]]:
    """The surest first."""
    sums = Sums(there)
    found = []
    for one in candidates(there):
        if _said(placed(there, one.box)) >= REMOTE:
            found.append((BASE + _said(traits(there, sums, one)), one.box))
    return sorted(found, reverse=True)


def _said(traits: dict[str, float]) -> float:
    return sum(WEIGHTS[name] * value for name, value in traits.items())


def _moving(there: Slopes) -> float:
    """The part of all edges' energy that is of edges that move, or come and go."""
    kept, energy = float((there.steep**2).sum()), float(there.energy.sum())
    return (energy - kept) / (energy + 1)
