"""How alike the edges of two frames are, in a box and outside of it: what was laid over a picture stays where it is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

STEEP = 40.0  # of a Sobel: weaker slopes are grain and the coder's blocks
FLAT = 0.02  # of a place: fewer edges tell nothing of whether it moves
CHANGE = 0.5  # of a slope: how much of it an edge that stays may change


class Rectangle(NamedTuple):
    """Pixels; right and bottom are the first that are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def touches(self, other: Rectangle) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def grown(self, pixels: int, within: Rectangle) -> Rectangle:
        return Rectangle(
            max(within.left, self.left - pixels), max(within.top, self.top - pixels),
            min(within.right, self.right + pixels), min(within.bottom, self.bottom + pixels),
        )  # fmt: skip

    @property
    def area(self) -> int:
        return max(0, self.width) * max(0, self.height)

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)


class Frames:
    """lumas: (h, w) bytes each, all of one size, in order."""

    def __init__(self, lumas: Sequence[np.ndarray]) -> None:
        self.lumas = lumas
        self.slopes = functools.cache(self._slopes)
        self.still = functools.cache(self._still)

    def __len__(self) -> int:
        return len(self.lumas)

    def alike(self, one: int, other: int, box: Rectangle) -> float:
        """The correlation of the edges in a box, of two frames by number: 1 the same, 0 nothing in common or none."""
        return _correlation(*(self.slopes(k)[:, box.rows, box.columns] for k in (one, other)))

    def alike_around(self, one: int, other: int, boxes: Sequence[Rectangle], around: Rectangle) -> float | None:
        """The same of all edges in `around` that are in none of the boxes. None: there are hardly any."""
        parts = []
        for k in (one, other):
            parts.append(self.slopes(k)[:, around.rows, around.columns].copy())
            for box in boxes:
                left, top = max(0, box.left - around.left), max(0, box.top - around.top)
                right, bottom = max(0, box.right - around.left), max(0, box.bottom - around.top)
                parts[-1][:, top:bottom, left:right] = 0
        if max(np.count_nonzero(part) for part in parts) <= FLAT * parts[0].size:
            return None
        return _correlation(*parts)

    @property
    def whole(self) -> Rectangle:
        return Rectangle(0, 0, *self.lumas[0].shape[::-1])

    def _still(self, one: int, other: int) -> np.ndarray:
        """Edges that both frames have, (h, w)."""
        a, b = self.slopes(one), self.slopes(other)
        larger = np.maximum((a * a).sum(0), (b * b).sum(0))
        return ((a - b) ** 2).sum(0) < CHANGE**2 * larger

    def _slopes(self, number: int) -> np.ndarray:
        """(2, h, w): across and down; weak ones are 0."""
        luma = self.lumas[number]
        slopes = np.stack([cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)])
        slopes[:, np.hypot(*slopes) < STEEP] = 0
        return slopes


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    each = float((a * a).sum()) * float((b * b).sum())
    return float((a * b).sum()) / each**0.5 if each > 0 else 0.0
