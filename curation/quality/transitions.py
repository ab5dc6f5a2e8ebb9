"""Videos of many scenes: cuts, gradual changes, and what only looks like them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..rows import CUT, DISSOLVE, FADE, WIPE
from .filmed import filmed, seed_of, varied
from .places import KINDS
from .plan import Plan, Scale
from .reel import Crossed, Effect, Join, Reel, Shot, Whipped, brighter, dimmed
from .texture import palette, pyramid, thing
from .truth import Truth
from .world import Footage, Scene

# Group: the joins of its videos, in turn; videos and joins in each, quick and full.
GROUPS: dict[str, tuple[tuple[Join, ...], tuple[int, int], tuple[int, int]]] = {
    "cut": ((Join(CUT),), (1, 6), (25, 10)),
    "cut alike": ((Join(CUT, alike=True),), (1, 3), (8, 8)),
    "cut short scenes": ((Join(CUT),), (1, 7), (8, 16)),
    "dissolve 30": ((Join(DISSOLVE, 30),), (1, 4), (30, 8)),
    "dissolve other": ((Join(DISSOLVE, 12), Join(DISSOLVE, 24), Join(DISSOLVE, 48)), (1, 3), (16, 8)),
    "dissolve alike": ((Join(DISSOLVE, 30, alike=True),), (1, 1), (6, 6)),
    "fade black": ((Join(FADE, 30, "black"), Join(FADE, 30, "black", hold=0.2)), (1, 2), (18, 8)),
    "fade white": ((Join(FADE, 30, "white"), Join(FADE, 30, "white", hold=0.2)), (1, 2), (12, 8)),
    "fade other": (
        tuple(Join(FADE, n, how, hold=0.1) for n in (12, 20, 44, 60) for how in ("black", "white")),
        (1, 2),
        (10, 8),
    ),
    "wipe": (
        (Join(WIPE, 30, "left"), Join(WIPE, 30, "down"), Join(WIPE, 30, "circle"), Join(WIPE, 15, "left")),
        (1, 3),
        (20, 8),
    ),
    "mixed": (
        (Join(CUT), Join(DISSOLVE, 30), Join(CUT), Join(FADE, 30, "black"), Join(CUT), Join(DISSOLVE, 20)),
        (0, 0),
        (10, 14),
    ),
}
SHORT = (0.3, 1.0)  # seconds of a short scene
EVENTS = ("flash", "pan", "crossing", "lights", "strobe", "long", "nothing")
VIDEOS = {"quick": 1, "full": 18}  # of each event


def plans(scale: Scale, seed: int) -> Iterator[Plan]:
    """What is to be made."""
    for number, (group, (joins, quick, full)) in enumerate(GROUPS.items()):
        videos, count = quick if scale.name == "quick" else full
        for k in range(videos):
            file = f"transitions/{group.replace(' ', '-')}-{k:02}.mp4"
            turns = tuple(joins[n % len(joins)] for n in range(count))
            yield Plan(file, partial(_scenes, file, group, turns, scale, (seed, 1, number, k)))
    for number, event in enumerate(EVENTS):
        for k in range(VIDEOS[scale.name]):
            file = f"transitions/no-{event}-{k:02}.mp4"
            yield Plan(file, partial(_event, file, event, scale, (seed, 2, number, k)))


def _scenes(
    file: str, group: str, joins: tuple[Join, ...], scale: Scale, key: tuple[int, ...], folder: Path
) -> list[Truth]:
    """A video of scenes that are joined so."""
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), scale.rate(rng)
    if group == "mixed":
        joins = tuple(joins[k] for k in rng.permutation(len(joins)))
    scenes = varied(rng, [join.alike for join in joins])
    least, most = SHORT if group == "cut short scenes" else scale.scene
    shots = [Shot(scene, max(8, round(rng.uniform(least, most) * rate)), rng.uniform(0, 20)) for scene in scenes]
    return [filmed(folder, file, group, Reel(size, rate, shots, joins))]


def _event(file: str, event: str, scale: Scale, key: tuple[int, ...], folder: Path) -> list[Truth]:
    """One scene, in which something happens that is no transition."""
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), scale.rate(rng)
    kinds = [kind for kind in KINDS if event != "pan" or kind not in ("talk", "studio")]
    scene = Scene(seed_of(rng), kind=kinds[(key[-1] + key[-2]) % len(kinds)])
    count = round(rate * scale.long) if event == "long" else round(rng.uniform(4, 7) * rate)
    footage: Footage = scene
    effects: list[Effect] = []
    events: list[tuple[str, int, int]] = []
    for part in {"flash": (0.3, 0.6), "crossing": (0.2, 0.6), "long": (), "nothing": ()}.get(event, (0.45,)):
        first = last = round(count * part)
        if event == "flash":
            last += int(rng.integers(1, 4))
            effects.append(Effect(first, last, brighter(rng.uniform(0.5, 1.0, last - first).tolist())))
        elif event == "strobe":
            last += round(rng.uniform(1, 2) * rate)
            on, off = int(rng.integers(1, 3)), int(rng.integers(2, 5))
            effects.append(Effect(first, last, brighter([rng.uniform(0.4, 0.9)] * on + [0.0] * off)))
        elif event == "pan":
            last += round(rng.uniform(0.35, 0.9) * rate)
            far = rng.choice([-1, 1]) * rng.uniform(1.2, 3)
            footage = Whipped(scene, float(first / rate), float(last / rate), far)
        elif event == "crossing":
            last += round(rng.uniform(0.4, 1.2) * rate)
            paint = pyramid(thing(rng, str(rng.choice(["blob", "box", "shoulders", "disc"])), palette(rng)))
            radius, back = rng.uniform(0.5, 0.95), bool(rng.random() < 0.5)
            footage = Crossed(footage, float(first / rate), float(last / rate), paint, radius, back)
        else:
            effects.append(Effect(0, first, dimmed(rng.uniform(0.15, 0.45))))
        events.append((event, first, last))
    return [filmed(folder, file, f"no {event}", Reel(size, rate, [Shot(footage, count)], [], effects, events))]
