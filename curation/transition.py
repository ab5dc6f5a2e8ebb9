"""What lies between two scenes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transition:
    """From the first frame that is not purely the scene before to the first that is purely the one after: numbers.

    A hard cut has one and the same. Where they are not certain, they are the earliest and the latest there may be.
    """

    kind: str
    first: int
    last: int
    fitted: tuple[int, int] | None = None  # of a dissolve: where they likely are

    @property
    def likely(self) -> tuple[int, int]:
        return self.fitted or (self.first, self.last)
