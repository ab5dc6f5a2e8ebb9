"""Where a dissolve begins and ends: the ramp that explains best what is seen of it.

Of a frame that holds the share w of the new scene b and the rest of the old one a, contrast squared is (1 - w)^2 |a|^2
+ w^2 |b|^2 + w (1 - w) 2<a, b>: whatever moves in either, as long as both keep theirs. What it has in common with
frames before and behind is (1 - w) of one number and w of another, as long as little moves. Both are fitted by least
squares for each ramp of w there may be. Of those that explain nearly as much as the best one, the earliest beginning
and the latest end count: a frame too many costs nothing, one of the other scene is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .frame_view import View
from .rows import DISSOLVE
from .transition import Transition

PAD = 14  # frames on either side of what was found so far
SHORTEST = 6  # frames
SIDE = 3  # frames before and behind that others are compared with
COMMON = 0.3  # what is in common counts so much of what contrast does
NEARLY = 1.1  # times what the best ramp leaves unexplained


@dataclass(frozen=True)
class Ramp:
    transition: Transition
    contrast: float  # what is left unexplained of it, as a part of how it varies
    common: float  # the same of what is in common with either side, both together


def ramp(view: View, first: int, last: int, least: int, most: int, step: int) -> Ramp | None:
    """Of a dissolve that lies somewhere from first to last; None: there are too few frames.

    least, most: frames outside of which something else happens. step: frames of the video in one at RATE.
    """
    begin, end = max(least, view.base, first - PAD * step), min(most, view.end - 1, last + PAD * step)
    numbers = np.arange(begin, end + 1, step)
    n = len(numbers)
    begins, ends = np.triu_indices(n, SHORTEST)  # w is 0 before the one, 1 from the other on
    middle = ((first + last) // 2 - begin) // step
    could = (begins > 0) & (begins <= middle + PAD) & (ends >= middle - PAD)
    begins, ends = begins[could, None], ends[could, None]
    if n < SHORTEST + 4 or not len(begins):
        return None
    w = np.clip((np.arange(n) - begins + 1) / (ends - begins + 1), 0, 1)
    products = view.products[np.ix_(numbers - view.base, numbers - view.base)]
    contrast = _unexplained(products.diagonal(), (1 - w) ** 2, w**2, w * (1 - w))
    before, behind = (_unexplained(side, 1 - w, w) for side in (products[:SIDE].mean(0), products[-SIDE:].mean(0)))
    common = before + behind
    left = contrast + COMMON * common
    best, good = left.argmin(), left <= NEARLY * left.min()
    first, last, begins_, ends_ = (
        int(numbers[k]) for k in (begins[good].min(), ends[good].max(), begins[best, 0], ends[best, 0])
    )
    found = Transition(DISSOLVE, first, last, (begins_, ends_))
    return Ramp(found, float(contrast[best]), float(common[best]))


def _unexplained(values: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    """Of values (n,), by the best sum of parts (ramps, n) each: as a part of their variance, (ramps,)."""
    values = values / max(float(np.abs(values).mean()), 1e-12)
    parts_ = np.stack(parts, -1)
    squares = parts_.transpose(0, 2, 1) @ parts_ + 1e-6 * len(values) * np.eye(len(parts))
    along = (values @ parts_)[..., None]
    explained = (along * np.linalg.solve(squares, along)).sum((1, 2))
    return np.maximum(values @ values - explained, 0) / (len(values) * max(float(values.var()), 1e-9))
