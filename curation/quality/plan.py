"""How much is made, and what is to be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from .truth import Truth

RATES = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))


@dataclass(frozen=True)
class Plan:
    """make: from the corpus' folder to the truth about the files that it has written there."""

    name: str
    make: Callable[[Path], list[Truth]]


@dataclass(frozen=True)
class Scale:
    """sizes: (height, width), drawn with these chances."""

    name: str
    sizes: tuple[tuple[int, int], ...]
    chances: tuple[float, ...]
    rates: tuple[Fraction, ...]
    scene: tuple[float, float]  # seconds of a usual one
    long: float  # of a long one

    def size(self, rng: np.random.Generator) -> tuple[int, int]:
        return self.sizes[rng.choice(len(self.sizes), p=self.chances)]

    def rate(self, rng: np.random.Generator) -> Fraction:
        return self.rates[rng.integers(len(self.rates))]


SCALES = {
    "quick": Scale("quick", ((180, 320),), (1.0,), RATES[:2], (1.0, 1.8), 6.0),
    "full": Scale(
        "full",
        ((180, 320), (270, 480), (360, 640), (360, 480), (720, 1280)),
        (0.36, 0.3, 0.25, 0.06, 0.03),
        RATES,
        (1.2, 4.5),
        30.0,
    ),
}
