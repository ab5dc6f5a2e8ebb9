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

import cv2
import numpy as np

from .config import ScenesConfig
from .cuts import cuts
from .fades import fades
from .frame_view import SIZE, Frames, View, again, is_back
from .gradual import Gradual
from .ramp import ramp
from .rows import CUT, DISSOLVE, FADE, WIPE
from .transition import Transition
from .transnet import HEIGHT as NET_HEIGHT, WIDTH as NET_WIDTH, Verdicts, open_transnet

RATE = 30.0  # frames a second that gradual change is looked at with
CONTEXT, BLOCK = 72, 128  # frames at that rate: looked at around a block, and decided at once

# Something that passes close by hides the scene and gives it back: no transition, however it looks.
HIDDEN = 75  # frames that it takes at most

NEAR = 6  # frames between two parts of one change


class TransitionFinder:
    """Of one video. rate: frames a second, on average."""

    def __init__(self, config: ScenesConfig, rate: float) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self.timecode, self.rate = FrameTimecode, max(rate, 1.0)
        self.stride = max(1, round(rate / RATE))
        self.adaptive = AdaptiveDetector(adaptive_threshold=2.0, min_content_val=6.0, min_scene_len=1)
        self.frames = Frames()
        self.judge = Verdicts(open_transnet(config.detector), self.frames)
        self.proposed: set[int] = set()
        self.decided = 0  # nothing will be found before this frame any more
        self.count = 0
        self.open: Transition | None = None  # the latest one, which the next may be a part of

    def put(self, seconds: float, picture: np.ndarray) -> list[Transition]:
        """picture: (h, w, 3) bytes, RGB, some 256 pixels wide."""
        luma = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), SIZE, interpolation=cv2.INTER_AREA)
        small = cv2.resize(picture, (NET_WIDTH, NET_HEIGHT), interpolation=cv2.INTER_AREA)
        # Of small pictures it proposes nearly the same cuts, at a tenth of the cost.
        for cut in self.adaptive.process_frame(self.timecode(self.count, fps=25.0), small[..., ::-1]):
            self.proposed.add(cut.frame_num)
        return self.put_values(seconds, luma, small)

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
        start, step = self.decided, self.stride
        dark = fades(view, start, until, step, HIDDEN * step)
        hard = cuts(view, start, until, self.proposed, self.judge.cut, step)
        soft = Gradual(self.frames, view, step, self.judge.change, hard).found(start, until, self.open)
        transitions = [*(Transition(FADE, *span) for span in dark), *(Transition(CUT, k, k) for k in hard)]
        # Half a fade is a mixture of a scene and of black.
        transitions += [one for one in soft if not any(first <= sum(one.likely) / 2 < last for first, last in dark)]
        found = []
        for transition in self._fitted(view, self._without_interruptions(view, transitions)):
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
        self.judge.drop(until)
        return found

    def _without_interruptions(self, view: View, transitions: list[Transition]) -> list[Transition]:
        """In order; without gradual changes, one or two, on whose sides the same scene is."""
        ordered, dropped = sorted(transitions, key=lambda t: (t.first, t.last)), set[int]()
        gradual = [k for k, transition in enumerate(ordered) if transition.kind in (DISSOLVE, FADE)]
        clear = [t for t in (self.open, *ordered) if t is not None and t.kind in (CUT, FADE)]
        for k, one in enumerate(ordered):
            if one.kind in (DISSOLVE, WIPE):
                least = max((t.last for t in clear if t.last <= one.first), default=0)
                most = min((t.first for t in clear if t.first >= one.last), default=self.count)
                if is_back(view, one.first, one.last, least, most, HIDDEN * self.stride, self.stride):
                    dropped.add(k)
        for one in gradual:
            for other in gradual:
                first, last = ordered[one].first - 1, ordered[other].last
                near = 0 <= last - first < HIDDEN * self.stride
                if other >= one and near and first >= view.base and last < view.end and again(view, first, last):
                    dropped.update(k for k in gradual if one <= k <= other)
        return [transition for k, transition in enumerate(ordered) if k not in dropped]

    def _fitted(self, view: View, transitions: list[Transition]) -> list[Transition]:
        """With the ends of dissolves where they are, between those beside them."""
        before, fitted = 0 if self.open is None else self.open.likely[1], list[Transition]()
        for k, one in enumerate(transitions):
            after = transitions[k + 1].likely[0] - 1 if k + 1 < len(transitions) else self.count - 1
            if one.kind == DISSOLVE:
                fit = ramp(view, *one.likely, before, after, self.stride)
                if fit is not None:
                    one = fit.transition
            fitted.append(one)
            before = one.likely[1]
        return fitted

    def _joined(self, one: Transition, next_: Transition) -> Transition | None:
        """Two that overlap, or are parts of one gradual change; None: they are two."""
        if CUT == one.kind == next_.kind:
            return None
        (begins, ends), (begin, end) = one.likely, next_.likely
        # What was fitted is whole.
        if begin > ends + (0 if one.fitted and next_.fitted else NEAR * self.stride):
            return None
        kind = next(k for k in (FADE, DISSOLVE, WIPE, CUT) if k in (one.kind, next_.kind))
        return Transition(kind, one.first, max(one.last, next_.last), (begins, max(end, ends)))
