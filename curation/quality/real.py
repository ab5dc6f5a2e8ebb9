"""Mixtures of real footage: its shots joined by known cuts, dissolves, fades and wipes, and each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..rows import CUT, DISSOLVE, FADE, WIPE
from .filmed import difference, filmed
from .footage import Reels, camera_shots, preview_shots
from .plan import Plan, Scale
from .reel import Join, Reel, Shot
from .truth import Truth

# Group: its joins, in turn; videos, quick and full, where full also says how many joins each has.
GROUPS: dict[str, tuple[tuple[Join, ...], int, int]] = {
    "real cut": ((Join(CUT),), 1, 16),
    "real dissolve 30": ((Join(DISSOLVE, 30),), 1, 16),
    "real dissolve other": ((Join(DISSOLVE, 12), Join(DISSOLVE, 24), Join(DISSOLVE, 48)), 0, 8),
    "real fade": ((Join(FADE, 30, "black"), Join(FADE, 24, "white"), Join(FADE, 30, "black", hold=0.2)), 1, 12),
    "real wipe": ((Join(WIPE, 30, "left"), Join(WIPE, 30, "down"), Join(WIPE, 30, "circle")), 0, 8),
}
JOINS = {"quick": 4, "full": 8}
SIZES = ((270, 480), (240, 320), (180, 320), (352, 352))
DIFFERENT = 12.0  # see `filmed.difference`; some previews are edits of each other


def plans(scale: Scale, seed: int, previews: Path | None = None) -> Iterator[Plan]:
    """What is to be made; nothing where no real footage is at hand."""
    cameras, others = camera_shots(), preview_shots(previews)
    shots = cameras + others
    if len(shots) < 2:
        return
    for number, (group, (joins, quick, full)) in enumerate(GROUPS.items()):
        for k in range(quick if scale.name == "quick" else full):
            file = f"real/{group.removeprefix('real ').replace(' ', '-')}-{k:02}.mp4"
            turns = tuple(joins[n % len(joins)] for n in range(JOINS[scale.name]))
            # Every second video of camera footage alone: previews are models' work.
            chosen = cameras if k % 2 == 0 and len(cameras) > 1 else shots
            yield Plan(file, partial(_mixed, file, group, turns, chosen, scale, (seed, 5, number, k)))
    for k, shot in enumerate(shots if scale.name == "full" else shots[:3]):
        file = f"real/single-{k:02}.mp4"
        yield Plan(file, partial(_single, file, shot, scale, (seed, 6, k)))


def _mixed(
    file: str,
    group: str,
    joins: tuple[Join, ...],
    shots: Sequence[Reels],
    scale: Scale,
    key: tuple[int, ...],
    folder: Path,
) -> list[Truth]:
    rng = np.random.default_rng(key)
    size, rate = SIZES[rng.integers(len(SIZES))] if scale.name == "full" else SIZES[2], scale.rate(rng)
    chosen = [shots[int(rng.integers(len(shots)))]]
    while len(chosen) <= len(joins):
        for _ in range(20):
            shot = shots[int(rng.integers(len(shots)))]
            if shot != chosen[-1] and difference(chosen[-1], shot) > DIFFERENT:
                break
        chosen.append(shot)
    least, most = scale.scene
    lasting = [max(8, round(rng.uniform(least, most) * rate)) for _ in chosen]
    reel = Reel(size, rate, [Shot(shot, n, rng.uniform(0, 5)) for shot, n in zip(chosen, lasting, strict=True)], joins)
    return [filmed(folder, file, group, reel)]


def _single(file: str, shot: Reels, scale: Scale, key: tuple[int, ...], folder: Path) -> list[Truth]:
    rng = np.random.default_rng(key)
    rate = scale.rate(rng)
    reel = Reel(SIZES[2], rate, [Shot(shot, round(rate * (2 if scale.name == "quick" else 5)))], [])
    return [filmed(folder, file, "real nothing", reel)]
