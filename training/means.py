"""Numbers of training since they were last written: means over the steps, by bucket too, and where the time went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from torch import Tensor

LAST = ("lr",)  # numbers of which the last one counts


class Means:
    """Adds up on the device: asking a number of every step would wait for the device every time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._begin()

    def _begin(self) -> None:
        self.steps, self.sums, self.counts, self.by, self.steps_of = 0, {}, {}, {}, {}
        self.waited = self.worked = 0.0
        self.since = self.clock()

    def loaded(self) -> None:
        """Data is there; what comes until `add` is work."""
        now = self.clock()
        self.waited, self.since = self.waited + now - self.since, now

    def add(self, numbers: Mapping[str, Tensor | float], headline: str, of: str) -> None:
        """The numbers of a step; `of` says what the step was made of."""
        now = self.clock()
        self.worked, self.since = self.worked + now - self.since, now
        self.steps += 1
        for name, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value):
                continue  # a step that fp16 skips while it looks for its scale
            self.sums[name] = value if name in LAST else self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1  # a step on stills has no flow
        self.by[of] = self.by.get(of, 0.0) + numbers[headline]
        self.steps_of[of] = self.steps_of.get(of, 0) + 1

    def take(self) -> tuple[dict[str, Tensor | float], dict[str, Tensor | float], dict[str, float]]:
        """(means by name, means of the headline by what steps were made of, seconds a step); begins anew."""
        means = {name: value if name in LAST else value / self.counts[name] for name, value in self.sums.items()}
        by = {of: value / self.steps_of[of] for of, value in self.by.items()}
        seconds = {"data_s": round(self.waited / self.steps, 4), "compute_s": round(self.worked / self.steps, 4)}
        self._begin()
        return means, by, seconds
