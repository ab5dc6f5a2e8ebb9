"""A reel into a file, with the truth about it; scenes that a person can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .places import KINDS
from .reel import Reel
from .truth import Overlay, Picture, Truth
from .world import Footage, Scene
from .write import Coding, write

DIFFERENT, ALIKE = 8.0, 3.0  # least mean difference of two scenes, of 255, so that a person sees the change
TRIES = 20


def filmed(folder: Path, file: str, group: str, reel: Reel, coding: Coding | None = None) -> Truth:
    """Write it. file: below the folder, its first folder the part that it is of."""
    times = write(folder / file, reel.frames(), reel.rate, coding)
    return told(file, group, reel, times)


def told(file: str, group: str, reel: Reel, times: Sequence[float]) -> Truth:
    """times: of the frames, and when the last one ends."""
    height, width = reel.size
    return Truth(
        file, file.split("/")[0], group, width, height, float(reel.rate), reel.count, times[-1],
        reel.spans(times), reel.happened(times),
        [Picture(box, times[first], times[last]) for box, first, last in reel.pictures],
        [Overlay(kind, box, times[first], times[last]) for kind, box, first, last in reel.overlays],
    )  # fmt: skip


def varied(rng: np.random.Generator, alike: Sequence[bool]) -> list[Scene]:
    """One more scene than there are changes, each visibly another than the one before. alike: they are of one place."""
    kinds = [str(kind) for kind in rng.permutation([k for k in KINDS if k != "studio" or not any(alike)])]
    scenes = [Scene(seed_of(rng), kind=kinds[0])]
    for k, same in enumerate(alike, 1):
        last, least = scenes[-1], ALIKE if same else DIFFERENT
        for tried in range(TRIES):
            kind = last.kind if same else kinds[(k + tried) % len(kinds)]
            scene = Scene(seed_of(rng), kind=kind, setting=last.setting if same else None)
            if difference(last, scene) > least:
                break
        scenes.append(scene)
    return scenes


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def difference(one: Footage, other: Footage) -> float:
    """Of their colours, on average, 0 to 255."""
    a, b = (np.mean([footage.frame(t, (36, 64)) for t in (0.0, 1.0)], 0) for footage in (one, other))
    return float(np.abs(a - b).mean())
