"""Frames of a clip as they are looked at: a few a second, and what the pictures between black bars are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LONG = 640  # pixels, the longer side of a frame that is looked at
SMALL = 256  # the same of one in which scenes and motion are looked for
BLACK = 28  # of 255: luma of a bar never reaches it (16 is black, and encoders ring)
LIT = 44  # of 255: luma that some of the picture beside a bar has to reach
THIN = 0.02  # of a side: thinner bars are the picture's own edge
EVEN = 0.6  # how alike both bars of a pair are at least


@dataclass(frozen=True)
class Pair:
    """A frame a little after another."""

    pts: int
    seconds: float  # since then
    small: np.ndarray


@dataclass
class Look:
    """One frame. Times as in `playback.Clock`."""

    pts: int
    picture: np.ndarray  # (h, w, 3) bytes, RGB, at most LONG
    rows: np.ndarray  # (height,) the largest luma of each row of the whole frame, bytes
    columns: np.ndarray  # (width,)
    small: np.ndarray  # luma at SMALL
    pair: Pair | None = None  # a little later


@dataclass(frozen=True)
class Box:
    """In pixels of a frame as shown; all even."""

    left: int
    top: int
    width: int
    height: int


def picture_box(looks: Sequence[Look], width: int, height: int) -> Box:
    """What lies between black bars, if there are any: rows and columns that are black in every frame.

    A dark scene has no bars: its dark rows end nowhere in particular, and the picture beside them is no brighter.
    """
    top, bottom = _bars(np.max([look.rows for look in looks], axis=0))
    left, right = _bars(np.max([look.columns for look in looks], axis=0))
    box = [left + left % 2, top + top % 2, width - right, height - bottom]  # even inwards
    return Box(box[0], box[1], (box[2] - box[0]) // 2 * 2, (box[3] - box[1]) // 2 * 2)


def _bars(brightest: np.ndarray) -> tuple[int, int]:
    """Pixels at the beginning and at the end of a side; 0, 0: there are none."""
    lit = np.flatnonzero(brightest >= BLACK)
    if not len(lit) or brightest.max() < LIT:
        return 0, 0
    before, after = int(lit[0]), int(len(brightest) - 1 - lit[-1])
    sides = []
    for bar, edge in ((before, brightest[before : before + 4]), (after, brightest[::-1][after : after + 4])):
        # Where a bar ends there is picture at once.
        sides.append(bar if bar >= THIN * len(brightest) and edge.max() >= LIT else 0)
    return sides[0], sides[1]


def within(look: Look, box: Box) -> np.ndarray:
    """The picture between the bars."""
    height, width = look.picture.shape[:2]
    down, across = height / len(look.rows), width / len(look.columns)
    top, left = int(np.ceil(box.top * down)), int(np.ceil(box.left * across))
    bottom, right = int((box.top + box.height) * down), int((box.left + box.width) * across)
    return look.picture[top : max(bottom, top + 8), left : max(right, left + 8)]


def grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
