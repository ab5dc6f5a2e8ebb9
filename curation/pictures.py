"""Frames of a clip as they are looked at: a few a second, and what the pictures between black bars are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LONG = 640  # pixels, the longer side of a frame that is looked at
SMALL = 256  # the same of one in which scenes and motion are looked for
BLACK = 28  # of 255: luma of a bar stays below it (black is 0 here, and encoders ring)
DIM = 12  # of 255: luma that some of the picture beside a bar has to reach
THIN = 0.004  # of a side: thinner bars are the picture's own edge
NEAR = 8  # pixels of the picture, beside a bar's end, by which it is known
BROAD = 0.5  # of a bar's length: where it ends, as much of the picture is not black
ALIKE = 2  # pixels that both bars of a pair differ by at most
EMPTY = 0.6  # of a bar with a logo or words in it: what is black of it, at least


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

    A bar ends in one line, from one pixel to the next, along most of its length, or together with the one on the other
    side; so dark scenes, and those that are lit in the middle, have none. A bar may hold a logo or words, as long as
    most of it is black, and its end.
    """
    rows, columns = np.max([look.rows for look in looks], axis=0), np.max([look.columns for look in looks], axis=0)
    if min(rows[0], rows[-1], columns[0], columns[-1]) >= BLACK:
        return Box(0, 0, width // 2 * 2, height // 2 * 2)
    lit = np.max([grey(look.picture) for look in looks], axis=0)
    top, bottom = _bars(rows, lit)
    left, right = _bars(columns, _part(lit, top, bottom, height).T)
    top, bottom = _bars(rows, _part(lit.T, left, right, width).T)
    left, top = left + left % 2, top + top % 2  # even inwards
    return Box(left, top, (width - right - left) // 2 * 2, (height - bottom - top) // 2 * 2)


def _part(lit: np.ndarray, before: int, after: int, length: int) -> np.ndarray:
    """Without the bars, which are of a side of that length."""
    first, last = (round(pixels / length * len(lit)) for pixels in (before, length - after))
    return lit[first : max(last, first + 1)]


def _bars(brightest: np.ndarray, lit: np.ndarray) -> tuple[int, int]:
    """Pixels at the beginning and at the end of a side; 0: there is none.

    brightest: (length,) of each line, at any time. lit: (h, w) the same of each pixel, h along the side, at any scale.
    """
    before, after = _ends(brightest, lit), _ends(brightest[::-1], lit[::-1])
    before, after = before + _opposite(after, lit), after + _opposite(before, lit[::-1])
    pairs = [(b, a) for b in before for a in after if abs(b.pixels - a.pixels) <= ALIKE]
    if pairs:
        b, a = max(pairs, key=lambda pair: (pair[0].broad + pair[1].broad, pair[0].clean + pair[1].clean))
        return b.pixels, a.pixels
    alone = [next((end.pixels for end in ends if end.clean and end.broad), 0) for ends in (before, after)]
    return alone[0], alone[1]


@dataclass(frozen=True)
class _End:
    """Where a bar may end. place: of the side, 0 to 1. clean: nothing is in it. broad: the picture begins along most
    of it."""

    place: float
    pixels: int
    clean: bool
    broad: bool


def _ends(brightest: np.ndarray, lit: np.ndarray) -> list[_End]:
    level, length = brightest.astype(int), len(brightest)
    found, place = list[_End](), max(2, round(THIN * length))
    while place < min(length * 0.45, length - 3 * NEAR - 3):
        dark, bright = int(level[place - 2 : place].max()), int(level[place : place + 3].min())
        if dark >= BLACK or bright < max(DIM, 1.5 * dark + 3):
            place += 1
            continue
        # Encoders ring before the end, so it is where most is gained.
        place = max(range(place, place + 3), key=lambda k: int(level[k : k + 3].min()) - int(level[k - 2 : k].max()))
        step = level[place] - level[place - 2] >= 2 * abs(level[place + 2] - level[place])
        if step or level[place + NEAR] >= 0.6 * level[place + 3 * NEAR]:  # else it grows light slowly
            end = _judged(place, level, lit)
            if end.clean or end.broad:
                found.append(end)
        place += 1
    return found


def _judged(pixels: int, level: np.ndarray, lit: np.ndarray) -> _End:
    beyond, _, beside = _around(pixels / len(level), lit)
    black = max(4, int(level[pixels - 2 : pixels].max()))
    clean = bool(level[:pixels].max() < min(BLACK, level[pixels]))
    broad = (beside > black).mean() >= BROAD and (clean or (beyond <= BLACK / 2).mean() >= EMPTY)
    return _End(pixels / len(level), pixels, clean, bool(broad))


def _opposite(ends: Sequence[_End], lit: np.ndarray) -> list[_End]:
    """On this side, where words reach to the end of the bar: what is black beside them ends as on the other side."""
    found = []
    for end in ends:
        if not end.clean or not end.broad:
            continue
        beyond, last, beside = _around(end.place, lit)
        black = last <= BLACK / 2
        is_bar = (beyond <= BLACK / 2).mean() >= EMPTY and black.mean() >= 1 - BROAD
        if is_bar and (beside[black] > BLACK / 2).mean() >= BROAD:
            found.append(_End(end.place, end.pixels, False, True))
    return found


def _around(place: float, lit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bar, and the lightest of the few lines before and behind its end."""
    first = int(np.ceil(place * len(lit)))
    before = lit[: max(1, int(place * len(lit)))]
    return before, before[-NEAR:].max(0), lit[first : first + NEAR].max(0)


def within(look: Look, box: Box) -> np.ndarray:
    """The picture between the bars."""
    height, width = look.picture.shape[:2]
    down, across = height / len(look.rows), width / len(look.columns)
    top, left = int(np.ceil(box.top * down)), int(np.ceil(box.left * across))
    bottom, right = int((box.top + box.height) * down), int((box.left + box.width) * across)
    return look.picture[top : max(bottom, top + 8), left : max(right, left + 8)]


def grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
