"""How much is made, and a video that is to be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .truth import Truth


@dataclass(frozen=True)
class Plan:
    file: str  # below the folder
    make: Callable[[Path], Truth]


@dataclass(frozen=True)
class Scale:
    """sizes: (height, width), drawn with these weights."""

    name: str
    sizes: tuple[tuple[int, int], ...]
    chances: tuple[float, ...]
    long: float  # seconds of a long scene

    def size(self, rng: np.random.Generator) -> tuple[int, int]:
        return self.sizes[rng.choice(len(self.sizes), p=self.chances)]


SCALES = {
    "quick": Scale("quick", ((180, 320),), (1.0,), 8.0),
    "full": Scale(
        "full", ((180, 320), (270, 480), (360, 640), (360, 480), (720, 1280)), (0.36, 0.3, 0.25, 0.06, 0.03), 30.0
    ),
}
