"""Wipes: every part of the picture changes once, suddenly, and when it does goes smoothly over the picture.

A picture is looked at in parts of 4x4 of its pixels. Where a part changes in a few frames more than in any that are
near, it turns, once. In a wipe most parts turn, and the frame at which each does is a smooth function of where it is:
one of second degree, and of the distance from the middle, is fitted to it. Parts of a cut turn all at once, those of a
dissolve not at all, and those in which only something moves turn here and there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .frame_view import SIZE, View

PART = 4  # pixels of a part's side
HALF = 3  # frames between which a change is looked at, on either side
AROUND = 18  # frames on either side within which a part turns once
TIMES = 2.0  # how many times its change there is what it is at any other place
LEAST = 0.0015  # squared, of 1: what is no change
NOISE = 0.0002
REACHES = (7, 11, 17, 26)  # frames on either side of a wipe's middle that are looked at
OFF = 3.0  # frames: parts that turn further from the fitted function turn for another reason
PARTS = 0.35  # of all, that turn in a wipe at least
LASTING = 8.5  # frames between the first parts and the last ones, at least, 5 % of either left out
# Parts that turn, times how much of when they do is explained, squared: certain from the first on, likely from the
# second.
SURE = (0.5, 0.38)
# Of the turns of that time, how many are kept at least; frames they deviate by where it is likely.
ON, SPREAD = 0.5, 1.1
BEYOND = 8  # frames that a wipe may go on where no part of it is seen to turn

_ROWS, _COLUMNS = SIZE[1] // PART, SIZE[0] // PART
_Y, _X = (v.ravel() for v in np.mgrid[-1 : 1 : _ROWS * 1j, -1 : 1 : _COLUMNS * 1j])
_R = np.hypot(_X * SIZE[0], _Y * SIZE[1]) / SIZE[0]
_POWERS = np.stack([np.ones_like(_X), _X, _Y, _X * _X, _Y * _Y, _X * _Y, _R], axis=1)


@dataclass(frozen=True)
class Sweep:
    """From the first frame of which a part is new to the first that is new as a whole. sure: see SURE."""

    first: int
    last: int
    sure: float


def sweeps(view: View, start: int, until: int, step: int, cuts: Sequence[int]) -> list[Sweep]:
    """Those whose middle may be from `start` on, before `until`, the surest first; none lies upon a surer one.

    step: frames of the video in one at RATE. cuts: the hard ones, at which everything turns.
    """
    begin = max(view.base, start - (REACHES[-1] + AROUND + HALF) * step)
    end = min(view.end, until + (REACHES[-1] + AROUND + HALF) * step)
    when, part = _turns(view, np.arange(begin, end, step))
    hard = (np.asarray(cuts, float) - begin) / step
    alone = np.ones(len(when), bool)
    for cut in hard:
        alone &= np.abs(when - cut) > HALF + 1
    when, part = when[alone], part[alone]
    order = np.argsort(when, kind="stable")
    when, part = when[order], part[order]
    found = []
    for reach in REACHES:
        for middle in np.arange((start - begin) // step, (until - begin) // step, max(2, reach // 4)):
            low, high = middle - reach, middle + reach
            for cut in hard:
                low, high = (max(low, cut) if cut <= middle else low), (min(high, cut) if cut > middle else high)
            here = slice(*np.searchsorted(when, (low, high)))
            if here.stop - here.start < PARTS * len(_X):
                continue
            sweep = _fitted(when[here], part[here], low, high)
            if sweep is not None:
                first, last, sure = sweep
                found.append(Sweep(int(begin + first * step), int(begin + last * step), sure))
    chosen = list[Sweep]()
    for sweep in sorted(found, key=lambda one: (-one.sure, one.first)):
        if all(sweep.last <= one.first or one.last <= sweep.first for one in chosen):
            chosen.append(sweep)
    return chosen


def _turns(view: View, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When parts turn, in frames of those, and which; (n,) each."""
    places = numbers - view.base
    pictures = view.luma[places] + view.level[places, None].astype(np.float32)
    if len(pictures) <= 2 * HALF:
        return np.zeros(0), np.zeros(0, int)
    change = np.full((len(pictures), len(_X)), NOISE, np.float32)
    squares = np.square(pictures[2 * HALF :] - pictures[: -2 * HALF]).reshape(-1, _ROWS, PART, _COLUMNS, PART)
    change[HALF:-HALF] += squares.mean((2, 4)).reshape(-1, len(_X))
    near = 2 * HALF
    padded = np.pad(change, ((AROUND, AROUND), (0, 0)))
    # The largest of the frames near, of those before, of those behind.
    before = _largest(padded[: len(change) + AROUND - near - 1], AROUND - near)
    behind = _largest(padded[AROUND + near + 1 :], AROUND - near)
    middle = _largest(padded[AROUND - near : len(padded) - AROUND + near], 2 * near + 1)
    turns = (change >= middle) & (change > LEAST) & (change > TIMES * np.maximum(before, behind))
    frame, part = np.nonzero(turns)
    beside = np.clip(frame[:, None] + np.arange(-near, near + 1), 0, len(change) - 1)
    weight = change[beside, part[:, None]]
    return (beside * weight).sum(1) / weight.sum(1), part


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Of so many rows, from each on that has as many behind it."""
    width = 1
    while 2 * width <= count:
        values, width = np.maximum(values[:-width], values[width:]), 2 * width
    more = count - width
    return np.maximum(values[: len(values) - more], values[more:])


def _fitted(when: np.ndarray, part: np.ndarray, low: float, high: float) -> tuple[int, int, float] | None:
    """First and last frame, and how sure it is; None: it is no wipe."""
    turns = len(when)
    for first_time in (True, False, False, False):
        powers = _POWERS[part]
        factors = np.linalg.solve(powers.T @ powers + 1e-6 * np.eye(len(powers.T)), powers.T @ when)
        off = np.abs(when - powers @ factors)
        kept = off <= (max(OFF, np.percentile(off, 60)) if first_time else OFF)
        if kept.all():
            break
        when, part, off = when[kept], part[kept], off[kept]
        if len(when) < PARTS * len(_X):
            return None
    if len(when) < ON * turns:
        return None
    parts = len(np.unique(part)) / len(_X)
    early, late = np.percentile(when, (5, 95))
    if parts < PARTS or late - early < LASTING:
        return None
    explained = 1 - float(np.square(off).sum() / np.square(when - when.mean()).sum())
    sure = parts * max(explained, 0.0) ** 2
    if sure < SURE[1] or (sure < SURE[0] and float(np.sqrt(np.mean(off**2))) > SPREAD):
        return None
    everywhere = np.clip(_POWERS @ factors, max(low, when.min() - BEYOND), min(high, when.max() + BEYOND))
    first, last = min(when.min(), everywhere.min()), max(when.max(), everywhere.max())
    return int(first), int(np.ceil(last)), sure
