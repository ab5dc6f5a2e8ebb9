"""Fades: contrast falls steadily to nothing, or rises from it, of one and the same picture.

A frame of one holds the share w of a scene and the rest of a colour: w of the scene's contrast, its own shape, and a
level that goes in a straight line with contrast to that of the colour. Something bright that comes into a dark scene
has contrast rise as steadily, but moves while it does, and what was there before it is no black.
"""

from __future__ import annotations

import numpy as np

from .frame_view import BLANK, View, again

DARK = 0.15  # of the contrast beside, below which a frame may be the middle of a fade
REACH = 60  # frames a half of one may take
BLACK, WHITE = 0.04, 0.94  # luma of what most fades go to
# How unlike frames that follow each other are in a half, but for contrast, in the middle, at most: where it goes to
# black or white; to anything else.
OTHER_SHAPE = (0.5, 0.08)


def fades(view: View, start: int, until: int, step: int, hidden: int) -> list[tuple[int, int]]:
    """Spans whose darkest frame is from `start` on, before `until`. step: frames of the video in one at RATE. hidden:
    frames that the same scene may be away for without a fade."""
    contrast, found = np.maximum(view.contrast, BLANK), []
    here, end = max(start, view.base) - view.base, min(until, view.end) - view.base
    reach = REACH * step
    while here < end:
        low = here
        here += 1
        if low > 0 and contrast[low - 1] <= contrast[low]:
            continue
        right = low
        while right + 1 < len(contrast) and contrast[right + 1] == contrast[low]:
            right += 1
        if right + 1 < len(contrast) and contrast[right + 1] < contrast[low]:
            continue  # it falls on
        here = right + 1
        before, after = _climb(contrast[low::-1], reach, step), _climb(contrast[right:], reach, step)
        before *= _is_one_picture(view, np.arange(low, low - before - 1, -1), step)
        after *= _is_one_picture(view, np.arange(right, right + after + 1), step)
        first, last = low - before, right + after
        peaks = [contrast[k] for k, there in ((first, before), (last, after)) if there >= 3 * step]
        if not peaks or min(peaks) < 2 * BLANK or contrast[low] > max(BLANK, DARK * min(peaks)):
            continue  # it falls not far; or suddenly: a cut, or a flash
        inside = first > 0 and last < len(contrast) - 1
        same = inside and last - first < hidden and again(view, first + view.base, last + view.base)
        if not same:
            found.append((view.base + first, view.base + last))
    return found


def _is_one_picture(view: View, places: np.ndarray, step: int) -> bool:
    """Whether frames on their way from the darkest on, by their place in the view, are one scene that comes up. Fewer
    than are a half of a fade are not looked at, nor are those without contrast that could tell."""
    contrast, level = view.contrast[places], view.level[places]
    seen = places[:-step][contrast[:-step] > max(BLANK, DARK * contrast[-1])]
    if len(places) <= 3 * step or not len(seen):
        return True
    towards = step if places[1] > places[0] else -step
    changes = 1 - view.correlation(view.base + seen, view.base + seen + towards)
    slope = np.cov(contrast, level, bias=True)[0, 1] / max(float(contrast.var()), 1e-12)
    colour = float(level.mean() - slope * contrast.mean())
    return float(np.median(changes)) < OTHER_SHAPE[BLACK < colour < WHITE]


def _climb(contrast: np.ndarray, reach: int, step: int) -> int:
    """How many frames contrast rises steadily from the first one on: not much slower than until then."""
    top = 0
    for k in range(1, min(len(contrast), reach + 1)):
        back = max(0, k - 2 * step)
        usual = (contrast[top] - contrast[0]) / max(top, 1)
        if contrast[k] - contrast[back] > 0.4 * usual * (k - back) and contrast[k] > contrast[top] * 1.005:
            top = k
        elif k - top > 2 * step:
            break
    return top
