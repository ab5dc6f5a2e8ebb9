"""Which clips a step takes: a pure function of (seed, step), so a resumed run reads what the killed one would have.

Every step takes one bucket of one source, the same on every process. Within a bucket each clip comes once before any
comes again; the order is another one each time round. A batch may reach over the end of a round, so no clip is ever
left out for want of a full batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...errors import TrainingError
from ..batch import Bucket
from .source import Source


@dataclass(frozen=True)
class BatchPlan:
    """What one step reads."""

    source: Source
    bucket: Bucket
    indices: list[int]  # one for each row of the whole batch, over all processes


class Mix:
    def __init__(
        self,
        sources: Mapping[str, Source],
        shares: Mapping[str, float],
        steps: int,
        rows: Callable[[Bucket], int],
        seed: int,
        stills: bool = True,
    ) -> None:
        """shares: of the steps by source; {} by number of clips (endless sources: alike). rows: batch size of a bucket.
        stills: whether single frames are taken.

        Raises TrainingError if a named source has no clip.
        """
        self.seed, self.rows = seed, rows
        every = [(s, bucket, n) for s in sources.values() for bucket, n in sorted(s.counts.items())]
        self.entries = [(s, bucket, n) for s, bucket, n in every if stills or bucket.frames > 1]
        endless = any(n is None for _, _, n in self.entries)
        weights = []
        for source, _, count in self.entries:
            own = [n for s, _, n in self.entries if s is source]
            total = len(own) if endless else sum(n or 0 for n in own)
            by_size = 1.0 if endless else float(total)
            share = shares.get(source.name, 0.0) if shares else by_size
            weights.append(share * (1 if count is None or endless else count) / total)
        present = {source.name for source, _, _ in self.entries}
        for name in shares:
            if name not in present:
                raise TrainingError(f"data.mix asks for {name!r}, which has no clip of this stage's size.")
        if not sum(weights):
            raise TrainingError("there is no clip to train on; see the data report for what was left out and why.")
        edges = np.cumsum(weights) / sum(weights)
        drawn = np.random.Generator(np.random.Philox(seed)).random(steps)
        self.choice = np.minimum(np.searchsorted(edges, drawn, side="right"), len(edges) - 1)
        # How often the same entry was taken before: tells how far into its clips a step begins.
        self.before = np.zeros(steps, dtype=np.int64)
        for entry in range(len(edges)):
            chosen = self.choice == entry
            self.before[chosen] = np.arange(chosen.sum())

    def at(self, step: int) -> BatchPlan:
        """step: counted from 0 within the stage."""
        entry = int(self.choice[step])
        source, bucket, count = self.entries[entry]
        size = self.rows(bucket)
        first = int(self.before[step]) * size
        if count is None:
            # Numbers of different entries of an endless source must not meet, nor those of another seed.
            return BatchPlan(source, bucket, [_number(self.seed, entry, first + i) for i in range(size)])
        places = range(first, first + size)
        return BatchPlan(source, bucket, [int(self._round(entry, count, p // count)[p % count]) for p in places])

    def _round(self, entry: int, count: int, number: int) -> np.ndarray:
        return _permutation(self.seed, entry, count, number)


@lru_cache(maxsize=64)
def _permutation(seed: int, entry: int, count: int, number: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed % 2**63, (entry << 40) + number + 1])).permutation(count)


def _number(seed: int, entry: int, place: int) -> int:
    """A clip's number in an endless source: 63 bits that differ wherever one of the three does."""
    return ((seed * 1_000_003 + entry) * 2**36 + place) % 2**63
