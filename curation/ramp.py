"""Where a dissolve begins and ends: the ramp that explains best what is seen of it.

Of a frame that holds the share w of the new scene b and the rest of the old one a, contrast squared is (1 - w)^2 |a|^2
+ w^2 |b|^2 + w (1 - w) 2<a, b>: whatever moves in either, as long as both keep theirs. What it has in common with
frames before and behind is (1 - w) of one number and w of another, as long as little moves. Both are fitted by least
squares for each ramp of w there may be. Of those that explain nearly as much as the best one, the earliest beginning
and the latest end count: a frame too many costs nothing, one of the other scene is seen.
"""

from __future__ import annotations

import numpy as np

from .frame_view import View

PAD = 14  # frames on either side of what was found so far
SHORTEST = 6  # frames
SIDE = 3  # frames before and behind that others are compared with
COMMON = 0.3  # what is in common counts so much of what contrast does
NEARLY = 1.1  # times what the best ramp leaves unexplained


def ramp(view: View, first: int, last: int, least: int, most: int, step: int) -> tuple[int, int]:
    """The same as `Transition` has, of a dissolve found from first to last. least, most: frames outside of which
    something else happens. step: frames of the video in one at RATE."""
    begin, end = max(least, view.base, first - PAD * step), min(most, view.end - 1, last + PAD * step)
    numbers = np.arange(begin, end + 1, step)
    n = len(numbers)
    if n < SHORTEST + 4:
        return first, last
    begins, ends = np.triu_indices(n, SHORTEST)  # w is 0 before the one, 1 from the other on
    middle = ((first + last) // 2 - begin) // step
    could = (begins > 0) & (begins <= middle + PAD) & (ends >= middle - PAD)
    begins, ends = begins[could, None], ends[could, None]
    if not len(begins):
        return first, last
    w = np.clip((np.arange(n) - begins + 1) / (ends - begins + 1), 0, 1)
    products = view.products[np.ix_(numbers - view.base, numbers - view.base)]
    left = _unexplained(products.diagonal(), (1 - w) ** 2, w**2, w * (1 - w))
    for side in (products[:SIDE].mean(0), products[-SIDE:].mean(0)):
        left = left + COMMON * _unexplained(side, 1 - w, w)
    good = left <= NEARLY * left.min()
    return int(numbers[begins[good].min()]), int(numbers[ends[good].max()])


def _unexplained(values: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    """Of values (n,), by the best sum of parts (ramps, n) each: as a part of their variance, (ramps,)."""
    values = values / max(float(np.abs(values).mean()), 1e-12)
    parts_ = np.stack(parts, -1)
    squares = parts_.transpose(0, 2, 1) @ parts_ + 1e-6 * len(values) * np.eye(len(parts))
    along = (values @ parts_)[..., None]
    explained = (along * np.linalg.solve(squares, along)).sum((1, 2))
    return np.maximum(values @ values - explained, 0) / (len(values) * max(float(values.var()), 1e-9))
