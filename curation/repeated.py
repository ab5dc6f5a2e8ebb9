"""What several scenes of one source have at the same place was laid over all of them: a channel's logo.

One scene alone may leave it open whether a place is a mark; two that show different things and have it at the same
place hardly ever do by chance. Nothing that a clip says for sure is taken back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np

from .overlay import Box, Marks
from .pictures import grey

SIZE = (32, 18)
FLAT = 2.0  # of 255: a picture that deviates less shows nothing
DIFFERS = 0.6  # two clips whose pictures correlate more show the same things, which may be at the same place
SAME = 0.5  # of what two places cover together, by both
EACH, BOTH = -1.5, 0.5  # how sure a place is in each of two clips, and in both together, to be a mark
CELL = 0.2  # of the picture: the middles of two such places are no further from each other
WITNESSES = 256  # the surest places of a cell, with which others are compared


class Repeated:
    """Of the clips of one source, in order."""

    def __init__(self) -> None:
        self.marks: list[Marks] = []
        self.places: list[list[Box]] = []  # that may be marks, in parts of the source's picture
        self.scenes: list[int] = []
        self.pictures: list[np.ndarray] = []  # small, without mean, of length 1; 0 where there is nothing to see

    def add(self, marks: Marks, pictures: Sequence[np.ndarray], scene: int, inside: Box = (0.0, 0.0, 1.0, 1.0)) -> None:
        """pictures: (h, w, 3) bytes each, of the clip. inside: where these lie in the source's picture."""
        left, top, width, height = inside
        self.marks.append(marks)
        self.places.append(
            [(left + x * width, top + y * height, w * width, h * height) for _, (x, y, w, h) in marks.maybe]
        )
        self.scenes.append(scene)
        small = cv2.resize(grey(pictures[len(pictures) // 2]), SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        length = float(np.linalg.norm(small))
        self.pictures.append(small.ravel() / length if length > FLAT * small.size**0.5 else np.zeros(small.size))

    def boxes(self) -> list[list[Box] | None]:
        """Of each clip what is laid over it, as `overlay.Marks` has it."""
        found = [None if one.boxes is None else list(one.boxes) for one in self.marks]
        ranked = sorted(
            ((rating, k, n) for k, one in enumerate(self.marks) for n, (rating, _) in enumerate(one.maybe)),
            reverse=True,
        )
        cells = defaultdict[tuple[int, int], list[tuple[float, int, int]]](list)
        ranked = [place for place in ranked if place[0] >= EACH and self.pictures[place[1]].any()]
        for place in ranked:
            cell = cells[self._cell(*place[1:])]
            if len(cell) < WITNESSES:
                cell.append(place)
        for rating, clip, n in ranked:
            box = self.marks[clip].maybe[n][1]
            known = np.array(found[clip] or [(0.0, 0.0, 0.0, 0.0)])
            if not _shared(np.array(box), known).any() and self._is_seen(rating, clip, n, cells):
                found[clip] = [*(found[clip] or ()), box]
        return found

    def _cell(self, clip: int, n: int) -> tuple[int, int]:
        x, y, w, h = self.places[clip][n]
        return int((x + w / 2) / CELL), int((y + h / 2) / CELL)

    def _is_seen(self, rating: float, clip: int, n: int, cells: dict[tuple[int, int], list]) -> bool:
        """Whether another scene has something there too."""
        column, row = self._cell(clip, n)
        near = [one for x in (-1, 0, 1) for y in (-1, 0, 1) for one in cells.get((column + x, row + y), ())]
        others = [one for one in near if one[0] + rating >= BOTH and self.scenes[one[1]] != self.scenes[clip]]
        if not others:
            return False
        shared = _shared(np.array(self.places[clip][n]), np.array([self.places[k][m] for _, k, m in others]))
        same = {others[k][1] for k in np.flatnonzero(shared >= SAME)}
        return any(float(self.pictures[k] @ self.pictures[clip]) < DIFFERS for k in same)


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The part of what both cover that is covered by each; others: (n, 4)."""
    first = np.maximum(box[:2], others[:, :2])
    last = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    both = np.prod(np.maximum(last - first, 0), axis=1)
    return both / (np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - both)
