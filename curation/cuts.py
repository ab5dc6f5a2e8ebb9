"""Hard cuts: frames that suddenly do not look like the one before, where the two sides do not look alike."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from .frame_view import View, comes_back

# In units of unlikeness. A cut stands out from all jumps near it but one, which may be another cut: a median would not
# do, since every second frame of a video may be a repeated one, and the rest jump.
UNLIKE = 0.25  # proposed where a frame is that unlike the one before
NEAR_JUMPS = 5  # frames on either side
TIMES, CLEAR = 1.6, 3.0  # how many times larger than those a jump is at least; where it is certainly one
LITTLE = 0.03  # that a jump has to be more than so many times those
NOTHING, APART_SIDES = 0.15, 0.25  # how little both sides correlate: nothing where it is less; certain from there on
FLASH = 8  # frames after which a picture that was interrupted may come back
# What goes by close to the camera: frames that it takes at most, and how unlike it is so many frames later, at least. A
# scene that is shown between two parts of another does not move as much.
BY, LATER, RUSH = 45, 3, 0.2
BACK = 0.6  # how unlike it is then what it was before, as a part of how unlike it is what came between


def cuts(
    view: View, start: int, until: int, proposed: Collection[int], judge: Callable[[int], float | None], step: int
) -> list[int]:
    """The new scenes' first frames among those from `start` on, before `until`.

    proposed: frames that others take for one. judge: how likely a doubtful one is; None: there is no judge. step:
    frames of the video in one at RATE.
    """
    first, end = max(start, view.base + 1), min(until, view.end)
    if first >= end:
        return []
    jumps = np.zeros(view.end - view.base)
    jumps[1:] = view.unlike(np.arange(view.base, view.end - 1), np.arange(view.base + 1, view.end))
    found = []
    for k in range(first, end):
        here = k - view.base
        jump = jumps[here]
        around = [*jumps[max(1, here - NEAR_JUMPS) : here], *jumps[here + 1 : here + 1 + NEAR_JUMPS]]
        usual = sorted([0.0, 0.0, *around])[-2]
        if jump < TIMES * usual + LITTLE or (jump < UNLIKE and k not in proposed):
            continue
        before = np.arange(max(view.base, k - 3), k)
        after = np.arange(k, min(view.end, k + 4))
        sides = 1 - view.correlation(before[:, None], after[None]).max()
        if sides < NOTHING or _comes_back(k, view) or _goes_by(k, view, step):
            continue
        sure = jump > max(UNLIKE, CLEAR * usual + LITTLE) and sides > APART_SIDES
        if sure or _is_cut(k, view, proposed, judge):
            found.append(k)
    return found


def _comes_back(k: int, view: View) -> bool:
    """Whether a jump is the beginning or the end of an interruption."""
    later = np.arange(k + 1, min(view.end, k + 1 + FLASH))
    earlier = np.arange(max(view.base, k - 1 - FLASH), k - 1)
    begins = view.unlike(k - 1, later) < BACK * view.unlike(k, later)
    ends = view.unlike(earlier, k) < BACK * view.unlike(earlier, k - 1)
    return bool(begins.any() or ends.any())


def _goes_by(k: int, view: View, step: int) -> bool:
    """Whether a jump is where something that moves all the time begins to hide the scene, or ends to."""
    later, earlier = np.arange(k, min(view.end, k + BY * step)), np.arange(k - 1, max(view.base, k - BY * step) - 1, -1)
    for here, others in ((k - 1, later), (k, earlier)):
        back = np.flatnonzero(comes_back(view, here, others))
        between = others[: back[0]] if len(back) else others[:0]
        moves = view.unlike(between[: -LATER * step], between[LATER * step :])
        if len(moves) and float(np.median(moves)) > RUSH:
            return True
    return False


def _is_cut(k: int, view: View, proposed: Collection[int], judge: Callable[[int], float | None]) -> bool:
    """At a place that is not clear."""
    judged = judge(k)
    if judged is not None:
        return judged > 0.5
    return k in proposed and bool(view.correlation(np.asarray(k - 1), np.asarray(k)) < 0.5)
