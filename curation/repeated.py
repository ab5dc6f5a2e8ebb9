"""What several scenes of one source have at the same place was laid over all of them: a channel's logo.

One clip alone may leave it open whether a place is a mark; two that show different things and have it at the same
place hardly ever do by chance. Nothing that a clip says for sure is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .overlay import Box, Marks
from .pictures import grey

SIZE = (32, 18)
DIFFERS = 0.6  # two clips whose pictures correlate more show the same things, which may be at the same place
SAME = 0.5  # of what two places cover together, by both
EACH, BOTH = -1.5, 0.5  # how sure a place is in each of two clips, and in both together, to be a mark


class Repeated:
    """Of the clips of one source, in order."""

    def __init__(self) -> None:
        self.marks: list[Marks] = []
        self.pictures: list[np.ndarray] = []  # small, without mean, of length 1

    def add(self, marks: Marks, pictures: Sequence[np.ndarray]) -> None:
        """pictures: (h, w, 3) bytes each, of the clip."""
        self.marks.append(marks)
        small = cv2.resize(grey(pictures[len(pictures) // 2]), SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        self.pictures.append(small.ravel() / (np.linalg.norm(small) + 1e-6))

    def boxes(self) -> list[list[Box] | None]:
        """Of each clip what is laid over it, as `overlay.Marks` has it."""
        found = [None if one.boxes is None else list(one.boxes) for one in self.marks]
        places = [(k, *place) for k, one in enumerate(self.marks) for place in one.maybe if place[0] >= EACH]
        if not places:
            return found
        owners, sure, boxes = (np.array(values) for values in zip(*places, strict=True))
        pictures = np.stack(self.pictures)
        for owner, rating, box in places:
            same = (_shared(np.array(box), boxes) >= SAME) & (rating + sure >= BOTH)
            same &= (pictures @ pictures[owner])[owners] < DIFFERS
            known = np.array(found[owner] or [(0.0, 0.0, 0.0, 0.0)])
            if same.any() and not _shared(np.array(box), known).any():
                found[owner] = [*(found[owner] or ()), box]
        return found


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The part of what both cover that is covered by each; others: (n, 4)."""
    first = np.maximum(box[:2], others[:, :2])
    last = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    both = np.prod(np.maximum(last - first, 0), axis=1)
    return both / (np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - both)
