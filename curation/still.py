"""How alike the edges of two frames are, in a box and outside of it: what was laid over a picture stays where it is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

STEEP = 40.0  # of a Sobel: weaker slopes are grain and the coder's blocks


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

    def __len__(self) -> int:
        return len(self.lumas)

    def alike(self, one: int, other: int, box: Rectangle) -> float:
        """The correlation of the edges in a box, of two frames by number: 1 the same, 0 nothing in common or none."""
        both, each = self._sums(one, other, box)
        return _part(both, each)

    def alike_outside(self, one: int, other: int, box: Rectangle) -> float:
        both, each = self._sums(one, other, Rectangle(0, 0, *self.lumas[0].shape[::-1]))
        inside, each_inside = self._sums(one, other, box)
        return _part(both - inside, each - each_inside)

    def _sums(self, one: int, other: int, box: Rectangle) -> tuple[float, np.ndarray]:
        a, b = (self.slopes(k)[:, box.rows, box.columns] for k in (one, other))
        return float((a * b).sum()), np.array([(a * a).sum(), (b * b).sum()], np.float64)

    def _slopes(self, number: int) -> np.ndarray:
        """(2, h, w): across and down; weak ones are 0."""
        luma = self.lumas[number]
        slopes = np.stack([cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)])
        slopes[:, np.hypot(*slopes) < STEEP] = 0
        return slopes


def _part(both: float, each: np.ndarray) -> float:
    return both / float(np.sqrt(each.prod())) if each.min() > 0 else 0.0
