"""Where scenes end: hard cuts and spans of gradual change, found while a video plays.

    finder = TransitionFinder(config)
    for each frame: found = finder.put(seconds, small picture)      # transitions that are certain now, in order
    found = finder.finish()

Hard cuts are proposed by PySceneDetect's AdaptiveDetector, as in VideoFactory (section 3), and by frames that suddenly
do not look like the one before; a place whose two sides look alike (a flash, lights switched on) is none. Gradual
change is told by what it is: frames that are mixtures of the two scenes (dissolve), lose and regain contrast (fade), or
are made of parts of both (wipe), while the two do not look alike. TransNetV2, where it is there, has the last word at
places that are neither clear nor clearly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .config import ScenesConfig
from .frame_view import BLANK, SIZE, Frames, View, again, climb, moved, ragged
from .rows import CUT, DISSOLVE, FADE, WIPE
from .transnet import HEIGHT as NET_HEIGHT, VALID, WIDTH as NET_WIDTH, WINDOW, open_transnet

RATE = 30.0  # frames a second that gradual change is looked at with
CONTEXT, BLOCK = 72, 128  # frames at that rate: looked at around a block, and decided at once

# Of hard cuts, in units of unlikeness. A cut stands out from all jumps near it but one, which may be another cut: a
# median would not do, since every second frame of a video may be a repeated one, and the rest jump.
UNLIKE = 0.25  # proposed where a frame is that unlike the one before
NEAR_JUMPS = 5  # frames on either side
TIMES, CLEAR = 1.6, 3.0  # how many times larger than those a jump is at least; where it is certainly one
LITTLE = 0.03  # that a jump has to be more than so many times those
NOTHING, APART_SIDES = 0.15, 0.25  # how little both sides correlate: nothing where it is less; certain from there on
FLASH = 8  # frames after which a picture that was interrupted may come back
BACK = 0.6  # how unlike it is then what it was before, as a part of how unlike it is what came between

# Of fades: contrast falls to nothing, and rises.
DARK = 0.15  # of the contrast beside, below which a frame may be the middle of a fade
REACH = 60  # frames a half of one may take

# Something that passes close by hides the scene and gives it back: no transition, however it looks.
HIDDEN = 75  # frames that it takes at most

# Of gradual change.
LAGS = (4, 6, 9, 13, 18, 26)  # half a window, frames
WIPE_LAGS = (9, 13, 18)
APART = 0.5  # how little its ends correlate, at least
STEP, BACKWARDS = 0.4, 0.12  # the largest part of the change that one frame may make; that may be undone
# A mixture of two pictures that do not look alike has less contrast than either, whatever moves in them; a camera that
# pans loses none. As a part of what is lost by mixing: certain within the first bounds, nothing outside of the second.
DIP, SOME_DIP = (0.6, 1.25), (0.45, 1.4)
UNJUDGED_DIP = 0.5  # what is accepted without a judge
# What is no mixture, as a part of the ends' distance, for each unit of how little they correlate: certain below; what
# is accepted without a judge; what is worth asking one.
LEFT_OVER = (0.48, 0.55, 0.60)
OF_NEITHER = 0.56  # of a wipe: what is of neither end, pixel by pixel, in the same units, and twice the border between
AS_SURE = 0.1  # how much more of a window may be left over that is of the same change as the surest one
NEAR = 6  # frames between two parts of one change
EDGE = 0.06  # shares below are of the scene before, above 1 - EDGE of the one after


@dataclass(frozen=True)
class Transition:
    """From the first frame that is not purely the scene before to the first that is purely the one after: numbers.

    A hard cut has one and the same.
    """

    kind: str
    first: int
    last: int


class TransitionFinder:
    """Of one video. rate: frames a second, on average."""

    def __init__(self, config: ScenesConfig, rate: float) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self.timecode, self.rate = FrameTimecode, max(rate, 1.0)
        self.stride = max(1, round(rate / RATE))
        self.adaptive = AdaptiveDetector(adaptive_threshold=2.0, min_content_val=6.0, min_scene_len=1)
        self.net = open_transnet(config.detector)
        self.frames = Frames()
        self.proposed: set[int] = set()
        self.decided = 0  # nothing will be found before this frame any more
        self.count = 0
        self.judged: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.doubtful = 0  # places that were not clear
        self.asked = 0  # times that TransNetV2 looked
        self.open: Transition | None = None  # the latest one, which the next may be a part of

    def put(self, seconds: float, picture: np.ndarray) -> list[Transition]:
        """picture: (h, w, 3) bytes, RGB, some 256 pixels wide."""
        for cut in self.adaptive.process_frame(self.timecode(self.count, fps=25.0), picture[..., ::-1]):
            self.proposed.add(cut.frame_num)
        luma = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), SIZE, interpolation=cv2.INTER_AREA)
        return self.put_values(
            seconds, luma, cv2.resize(picture, (NET_WIDTH, NET_HEIGHT), interpolation=cv2.INTER_AREA)
        )

    def put_values(self, seconds: float, luma: np.ndarray, small: np.ndarray) -> list[Transition]:
        """luma: (36, 64) bytes. small: as TransNetV2 takes it."""
        values = luma.astype(np.float32).ravel() / 255
        self.frames.seconds.append(seconds)
        self.frames.level.append(float(values.mean()))
        self.frames.luma.append(values - values.mean())
        self.frames.small.append(small)
        self.count += 1
        if self.count - self.decided < (BLOCK + CONTEXT) * self.stride:
            return []
        return self._decide(self.decided + BLOCK * self.stride)

    def finish(self) -> list[Transition]:
        """The rest of them."""
        return self._decide(self.count)

    def _decide(self, until: int) -> list[Transition]:
        """Those that are certain once the frames up to `until` are decided."""
        if not self.frames.luma:
            return []
        view = View(self.frames)
        fades = self._fades(view, self.decided, until)
        cuts = self._cuts(view, self.decided, until)
        spans = self._gradual(view, self.decided, until)
        found = []
        for transition in self._without_interruptions(view, [*fades, *cuts, *spans]):
            joined = None if self.open is None else self._joined(self.open, transition)
            if joined is None and self.open is not None:
                found.append(self.open)
            self.open = joined or transition
        self.decided = until
        if self.open is not None and (until >= self.count or self.open.last + CONTEXT * self.stride < until):
            found.append(self.open)
            self.open = None
        self.proposed = {k for k in self.proposed if k >= until}
        self.frames.drop(until - CONTEXT * self.stride)
        self.judged = {part: both for part, both in self.judged.items() if part + VALID > until}
        return found

    def _without_interruptions(self, view: View, transitions: list[Transition]) -> list[Transition]:
        """In order; without gradual changes, one or two, on whose sides the same scene is."""
        ordered, dropped = sorted(transitions, key=lambda t: (t.first, t.last)), set[int]()
        gradual = [k for k, transition in enumerate(ordered) if transition.kind != CUT]
        for one in gradual:
            for other in gradual:
                first, last = ordered[one].first - 1, ordered[other].last
                near = 0 <= last - first < HIDDEN * self.stride
                if other >= one and near and first >= view.base and last < view.end and again(view, first, last):
                    dropped.update(k for k in gradual if one <= k <= other)
        return [transition for k, transition in enumerate(ordered) if k not in dropped]

    def _joined(self, one: Transition, next_: Transition) -> Transition | None:
        """Two that overlap, or are parts of one gradual change; None: they are two."""
        if CUT == one.kind == next_.kind:
            return None
        if next_.first > one.last + NEAR * self.stride:
            return None
        kind = next(k for k in (FADE, DISSOLVE, WIPE, CUT) if k in (one.kind, next_.kind))
        return Transition(kind, one.first, max(one.last, next_.last))

    def _fades(self, view: View, start: int, until: int) -> list[Transition]:
        """Where contrast falls steadily to nothing, or rises from it."""
        contrast, step, found = np.maximum(view.contrast, BLANK), self.stride, []
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
            before, after = climb(contrast[low::-1], reach, step), climb(contrast[right:], reach, step)
            first, last = low - before, right + after
            peaks = [contrast[k] for k, there in ((first, before), (last, after)) if there >= 3 * step]
            if not peaks or min(peaks) < 2 * BLANK or contrast[low] > max(BLANK, DARK * min(peaks)):
                continue  # it falls not far; or suddenly: a cut, or a flash
            inside = first > 0 and last < len(contrast) - 1
            same = inside and last - first < HIDDEN * step and again(view, first + view.base, last + view.base)
            if not same:
                found.append(Transition(FADE, view.base + first, view.base + last))
        return found

    def _cuts(self, view: View, start: int, until: int) -> list[Transition]:
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
            if jump < TIMES * usual + LITTLE or (jump < UNLIKE and k not in self.proposed):
                continue
            before = np.arange(max(view.base, k - 3), k)
            after = np.arange(k, min(view.end, k + 4))
            sides = 1 - view.correlation(before[:, None], after[None]).max()
            if sides < NOTHING or self._comes_back(k, view):
                continue
            sure = jump > max(UNLIKE, CLEAR * usual + LITTLE) and sides > APART_SIDES
            if sure or self._is_cut(k, view):
                found.append(Transition(CUT, k, k))
        return found

    def _comes_back(self, k: int, view: View) -> bool:
        """Whether a jump is the beginning or the end of an interruption."""
        later = np.arange(k + 1, min(view.end, k + 1 + FLASH))
        earlier = np.arange(max(view.base, k - 1 - FLASH), k - 1)
        begins = view.unlike(k - 1, later) < BACK * view.unlike(k, later)
        ends = view.unlike(earlier, k) < BACK * view.unlike(earlier, k - 1)
        return bool(begins.any() or ends.any())

    def _is_cut(self, k: int, view: View) -> bool:
        """At a place that is not clear."""
        self.doubtful += 1
        judged = self._judged(k)
        if judged is not None:
            return judged[0] > 0.5
        return k in self.proposed and bool(view.correlation(np.asarray(k - 1), np.asarray(k)) < 0.5)

    def _judged(self, k: int) -> tuple[float, float] | None:
        """TransNetV2's: whether a scene ends around a frame, whether the frame is part of a change. None: it is not
        there."""
        if self.net is None:
            return None
        part = k // VALID * VALID  # of the video, so that places close together are judged at once
        if part not in self.judged:
            numbers = np.arange(part - (WINDOW - VALID) // 2, part + (WINDOW + VALID) // 2)
            numbers = np.clip(numbers, self.frames.base, self.count - 1)
            self.asked += 1
            self.judged[part] = self.net(np.stack([self.frames.small[n - self.frames.base] for n in numbers]))
        single, several = self.judged[part]
        near = slice(max(0, k - part - 3), k - part + 4)
        return float(single[near].max()), float(several[near].max())

    def _gradual(self, view: View, start: int, until: int) -> list[Transition]:
        """Spans of dissolves and fades, wipes, from windows around every second frame."""
        step = self.stride
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
                    windows.append(_Window(DISSOLVE, rest, *_extent(share[w], between[w]), dip, sure))
                if lag in WIPE_LAGS and rest >= LEFT_OVER[0] / 2:
                    rest = self._of_neither(between[w], float(apart[w]))
                    if rest < OF_NEITHER:
                        windows.append(_Window(WIPE, rest, *_extent(share[w], between[w]), 1.0, True))
        found, taken = [], np.zeros(view.end - view.base + 1, bool)
        for window in sorted(windows):  # the surest first
            place = slice(window.first - view.base, window.last - view.base + 1)
            if not taken[place].any() and self._is_change(window):
                first, last = _widest(window, windows)
                taken[first - view.base : last - view.base + 1] = True
                found.append(Transition(window.kind, first, last))
        return found

    def _of_neither(self, numbers: np.ndarray, apart: float) -> float:
        """Of each pixel in between, what is of neither end; and how ragged the border is between what is of the one and
        what of the other, which grows. inf: it does not grow, or all at once."""
        step = self.stride
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

    def _is_pan(self, window: _Window) -> bool:
        """Whether each frame is the one before, moved, and nothing else."""
        places = np.linspace(window.first, window.last, 5)[1:4].astype(int)
        last = self.frames.base + len(self.frames.luma) - 1
        return all(moved(self._picture(k), self._picture(min(k + 2 * self.stride, last))) for k in places)

    def _is_change(self, window: _Window) -> bool:
        if window.sure and window.kind == DISSOLVE:
            return True
        if self._is_pan(window):
            return False
        if window.sure:
            return True
        self.doubtful += 1
        judged = self._judged((window.first + window.last) // 2)
        if judged is not None:
            return judged[1] > 0.5
        return window.rest < LEFT_OVER[1] and window.dip > UNJUDGED_DIP


@dataclass(frozen=True, order=True)
class _Window:
    """A stretch that may be gradual change. Those that sort first are surer."""

    kind: str  # dissolve | wipe
    rest: float  # that is no mixture
    first: int
    last: int
    dip: float
    sure: bool


def _widest(window: _Window, windows: list[_Window]) -> tuple[int, int]:
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
