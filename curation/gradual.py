"""Gradual change: frames that are mixtures of the two scenes (dissolve), or made of parts of both (wipe), while the two
do not look alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .frame_view import SIZE, Frames, View, moved, ragged
from .ramp import Ramp, ramp
from .rows import DISSOLVE, WIPE
from .transition import Transition
from .wipes import SURE, Sweep, sweeps

LAGS = (4, 6, 9, 13, 18, 26)  # half a window, frames
WIPE_LAGS = (9, 13, 18)
APART = 0.5  # how little its ends correlate, at least
STEP, BACKWARDS = 0.4, 0.12  # the largest part of the change that one frame may make; that may be undone
# A mixture of two pictures that do not look alike has less contrast than either, whatever moves in them; a camera that
# pans loses none. As a part of what is lost by mixing: certain within the first bounds, nothing outside of the second.
DIP, SOME_DIP = (0.6, 1.25), (0.45, 1.4)
# How much of contrast the best ramp may leave unexplained where all else is certain; elsewhere, for each unit by which
# contrast dips more than so little.
UNEXPLAINED, EXPLAINED, LEAST_DIP = (0.3, 0.15), 0.035, 0.25
UNJUDGED_DIP = 0.5  # what is accepted without a judge
LIGHT = 0.1  # of the squared distance of both sides, that the level's may change within one frame
IN_COMMON = 1.25  # of what is in common with both sides, of 2
AGAIN = 3  # frames: a window so close to one that was refused is not looked at again
# What is no mixture, as a part of the ends' distance, for each unit of how little they correlate: certain below; what
# is accepted without a judge; what is worth asking one.
LEFT_OVER = (0.48, 0.55, 0.70)
OF_NEITHER = 0.56  # of a wipe: what is of neither end, pixel by pixel, in the same units, and twice the border between
AS_SURE = 0.1  # how much more of a window may be left over that is of the same change as the surest one
EDGE = 0.06  # shares below are of the scene before, above 1 - EDGE of the one after


@dataclass(frozen=True, order=True)
class Window:
    """A stretch that may be gradual change. Those that sort first are surer."""

    kind: str  # dissolve | wipe
    rest: float  # that is no mixture
    first: int
    last: int
    dip: float
    sure: bool


class Gradual:
    """Around a place. step: frames of the video in one at RATE. judge: how likely a doubtful frame is part of a change;
    None: there is no judge. cuts: the hard ones there."""

    def __init__(
        self, frames: Frames, view: View, step: int, judge: Callable[[int], float | None], cuts: Sequence[int] = ()
    ) -> None:
        self.frames, self.view, self.step, self.judge, self.cuts = frames, view, step, judge, cuts
        self.refused: list[int] = []  # middles of what is no dissolve

    def found(self, start: int, until: int, open_: Transition | None = None) -> list[Transition]:
        """Changes, from windows around every second frame of those from `start` on, before `until`.

        open_: the latest one that was found before.
        """
        windows = self._windows(start, until)
        found, taken = [], np.zeros(self.view.end - self.view.base + 1, bool)
        if open_ is not None and open_.fitted is not None:
            taken[: max(0, open_.last - self.view.base + 1)] = True
        swept = sweeps(self.view, start, until, self.step, self.cuts)
        dissolves, wipes = ([w for w in sorted(windows) if w.kind == kind] for kind in (DISSOLVE, WIPE))
        # The surest first.
        ordered = [
            *(s for s in swept if s.sure >= SURE[0]),
            *dissolves,
            *(s for s in swept if s.sure < SURE[0]),
            *wipes,
        ]
        for window in ordered:
            place = slice(window.first - self.view.base, window.last - self.view.base + 1)
            if taken[place].any():
                continue
            one = self._looked_at(window, windows)
            if one is None:
                continue
            taken[one.first - self.view.base : one.last - self.view.base + 1] = True
            if sum(one.likely) / 2 < until:
                found.append(one)  # else the frames that are still to come tell better
        return found

    def _windows(self, start: int, until: int) -> list[Window]:
        view, step = self.view, self.step
        centres = np.arange(-(-start // (2 * step)) * 2 * step, until, 2 * step)
        windows = []
        for lag in LAGS:
            m = centres[(centres - lag * step >= view.base) & (centres + lag * step < view.end)]
            apart = 1 - view.correlation(m - lag * step, m + lag * step)
            m, apart = m[apart >= APART], apart[apart >= APART]
            if not len(m):
                continue
            between = m[:, None] + step * np.arange(1 - lag, lag)
            share, left = view.mixtures(m - lag * step, m + lag * step, between)
            steps = np.diff(share, axis=1, prepend=0.0, append=1.0)
            smooth = (steps.max(1) <= STEP) & (steps.min(1) >= -BACKWARDS)
            for w in np.flatnonzero(smooth):
                rest = float(np.sqrt(np.mean(left[w] ** 2)) / apart[w])
                dip = view.dip(m[w] - lag * step, m[w] + lag * step, between[w], share[w])
                if rest < LEFT_OVER[2] and SOME_DIP[0] < dip < SOME_DIP[1]:
                    sure = rest < LEFT_OVER[0] and DIP[0] < dip < DIP[1]
                    windows.append(Window(DISSOLVE, rest, *_extent(share[w], between[w]), dip, sure))
                if lag in WIPE_LAGS and rest >= LEFT_OVER[0] / 2:
                    rest = self._of_neither(between[w], float(apart[w]))
                    if rest < OF_NEITHER:
                        windows.append(Window(WIPE, rest, *_extent(share[w], between[w]), 1.0, True))
        return windows

    def _of_neither(self, numbers: np.ndarray, apart: float) -> float:
        """Of each pixel in between, what is of neither end; and how ragged the border is between what is of the one and
        what of the other, which grows. inf: it does not grow, or all at once."""
        step = self.step
        pictures = np.stack([self._picture(n) for n in (numbers[0] - step, *numbers, numbers[-1] + step)])
        first, last, between = pictures[0], pictures[-1], pictures[1:-1]
        to_first, to_last = np.abs(between - first), np.abs(between - last)
        distance = max(float(np.sqrt(np.mean((last - first) ** 2))), 1e-6)
        differ = np.abs(last - first) > 0.5 * distance
        turned = to_last < to_first
        undone = np.mean((turned[:-1] & ~turned[1:])[:, differ], axis=1).max()
        part = turned[:, differ].mean(axis=1)
        if undone > 0.05 or part[0] > 0.4 or part[-1] < 0.6 or np.diff(part).max() > STEP:
            return float("inf")
        rest = float(np.sqrt(np.mean(np.minimum(to_first, to_last) ** 2))) / distance
        return rest / apart + 2 * ragged(turned, differ)

    def _picture(self, k: int) -> np.ndarray:
        here = k - self.frames.base
        return (self.frames.luma[here] + self.frames.level[here]).reshape(SIZE[::-1])

    def _is_pan(self, window: Window | Sweep) -> bool:
        """Whether each frame is the one before, moved, and nothing else."""
        places = np.linspace(window.first, window.last, 5)[1:4].astype(int)
        last = self.frames.end - 1
        return all(moved(self._picture(k), self._picture(min(k + 2 * self.step, last))) for k in places)

    def _looked_at(self, window: Window | Sweep, windows: list[Window]) -> Transition | None:
        """None: it is none."""
        if isinstance(window, Sweep):
            wipe = Transition(WIPE, window.first, window.last)
            return wipe if window.sure >= SURE[0] or not self._is_pan(window) else None
        return self._wipe(window, windows) if window.kind == WIPE else self._dissolve(window)

    def _wipe(self, window: Window, windows: list[Window]) -> Transition | None:
        return None if self._is_pan(window) else Transition(WIPE, *_widest(window, windows))

    def _dissolve(self, window: Window) -> Transition | None:
        """None: it is none."""
        middle = (window.first + window.last) // 2
        if any(abs(middle - one) <= AGAIN * self.step for one in self.refused):
            return None
        least = max((cut for cut in self.cuts if cut <= middle), default=0)
        most = min((cut - 1 for cut in self.cuts if cut > middle), default=self.view.end)
        fit = ramp(self.view, window.first, window.last, least, most, self.step)
        if fit is not None and fit.common < IN_COMMON and not self._is_lit(fit) and self._is_explained(window, fit):
            return fit.transition
        self.refused.append(middle)
        return None

    def _is_lit(self, fit: Ramp) -> bool:
        """Whether much of the change is light that is switched within one frame."""
        first, last = max(fit.transition.first, self.view.base + 1), min(fit.transition.last, self.view.end - 1)
        frames = np.setdiff1d(np.arange(first, last + 1), self.cuts) - self.view.base
        light = np.square(self.view.level[frames] - self.view.level[frames - 1])
        return bool((light > LIGHT * self.view.away(first - 1, last)).any())

    def _is_explained(self, window: Window, fit: Ramp) -> bool:
        if fit.contrast < EXPLAINED * (window.dip - LEAST_DIP) or (window.sure and fit.contrast < UNEXPLAINED[0]):
            return True
        if self._is_pan(window):
            return False
        if window.rest < LEFT_OVER[1] and window.dip > UNJUDGED_DIP and fit.contrast < UNEXPLAINED[1]:
            return True
        judged = self.judge((window.first + window.last) // 2)
        return judged is not None and judged > 0.5


def _widest(window: Window, windows: list[Window]) -> tuple[int, int]:
    """The extent of a change: the surest window may lie within it, where its own ends are mixtures already."""
    middle = (window.first + window.last) / 2
    same = [w for w in windows if w.kind == window.kind and w.sure and w.rest < window.rest + AS_SURE]
    same = [w for w in same if w.first <= middle <= w.last] + [window]
    return min(w.first for w in same), max(w.last for w in same)


def _extent(share: np.ndarray, numbers: np.ndarray) -> tuple[int, int]:
    """The first frame that is not purely what was before, the first that is purely what comes after."""
    step = int(numbers[1] - numbers[0])
    begun, done = np.flatnonzero(share > EDGE), np.flatnonzero(share < 1 - EDGE)
    first = numbers[begun[0]] if len(begun) else numbers[-1]
    last = numbers[done[-1]] + step if len(done) else numbers[0]
    return int(min(first, last)), int(max(first, last))
