"""Videos of many scenes: cuts, gradual changes, and what only looks like them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..rows import DISSOLVE, FADE, WIPE
from .plan import Plan, Scale
from .reel import Crossed, Effect, Join, Reel, Shot, Whipped, brighter, dimmed
from .texture import palette, pyramid, thing
from .truth import Truth
from .world import KINDS, Footage, Scene
from .write import write

PART = "transitions"
RATES = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))
# Group: the joins of its videos, in turn.
GROUPS: dict[str, tuple[Join, ...]] = {
    "cut": (Join(),),
    "cut alike": (Join(alike=True),),
    "cut short scenes": (Join(),),
    "dissolve 30": (Join(DISSOLVE, 30),),
    "dissolve other": (Join(DISSOLVE, 12), Join(DISSOLVE, 24), Join(DISSOLVE, 48)),
    "dissolve alike": (Join(DISSOLVE, 30, alike=True),),
    "fade black": (Join(FADE, 30, "black"), Join(FADE, 30, "black", hold=0.2)),
    "fade white": (Join(FADE, 30, "white"), Join(FADE, 30, "white", hold=0.2)),
    "fade other": tuple(Join(FADE, n, how, hold=0.1) for n in (12, 20, 44, 60) for how in ("black", "white")),
    "wipe": (Join(WIPE, 30, "left"), Join(WIPE, 30, "down"), Join(WIPE, 30, "circle"), Join(WIPE, 15, "left")),
    "mixed": (Join(), Join(DISSOLVE, 30), Join(), Join(FADE, 30, "black"), Join(), Join(DISSOLVE, 20), Join()),
}
# Videos of each, and joins in each of them.
COUNTS = {
    "quick": {"cut": (1, 7), "cut alike": (1, 3), "cut short scenes": (1, 8), "dissolve 30": (1, 5), "dissolve other": (1, 3),
              "dissolve alike": (1, 2), "fade black": (1, 3), "fade white": (1, 2), "fade other": (1, 4), "wipe": (1, 4)},
    "full": {"cut": (25, 10), "cut alike": (8, 8), "cut short scenes": (8, 16), "dissolve 30": (25, 8), "dissolve other": (16, 8),
             "dissolve alike": (6, 6), "fade black": (18, 8), "fade white": (12, 8), "fade other": (10, 8), "wipe": (16, 8),
             "mixed": (10, 14)},
}  # fmt: skip
EVENTS = ("flash", "pan", "crossing", "lights", "strobe", "long", "nothing")
NO_EVENTS = {"quick": 1, "full": 16}  # videos of each event
SHORT, USUAL = (0.3, 1.0), (1.2, 4.5)  # seconds of a scene
DIFFERENT, UNLIKE = 8.0, 3.0  # least mean difference of two scenes' levels, so that a person sees the change


def plans(scale: Scale, seed: int) -> Iterator[Plan]:
    """What is to be made."""
    for number, (group, (videos, joins)) in enumerate(COUNTS[scale.name].items()):
        for k in range(videos):
            key = (seed, 1, number, k)
            yield Plan(
                f"{PART}/{group.replace(' ', '-')}-{k:02}.mp4",
                lambda p, g=group, n=joins, s=key: _scenes(p, g, n, scale, s),
            )
    for number, event in enumerate(EVENTS):
        for k in range(NO_EVENTS[scale.name]):
            key = (seed, 2, number, k)
            yield Plan(f"{PART}/no-{event}-{k:02}.mp4", lambda p, e=event, s=key: _event(p, e, scale, s))


def _scenes(path: Path, group: str, count: int, scale: Scale, key: tuple[int, ...]) -> Truth:
    """A video of scenes that are joined as the group says."""
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), RATES[rng.integers(len(RATES))]
    joins = tuple(GROUPS[group][k % len(GROUPS[group])] for k in range(count))
    if group == "mixed":
        joins = tuple(joins[k] for k in rng.permutation(count))
    scenes = varied(rng, [join.alike for join in joins])
    least, most = SHORT if group == "cut short scenes" else USUAL
    shots = [Shot(scene, max(8, round(rng.uniform(least, most) * rate)), rng.uniform(0, 20)) for scene in scenes]
    return filmed(path, Reel(size, rate, shots, joins), PART, group)


def varied(rng: np.random.Generator, alike: list[bool]) -> list[Scene]:
    """Scenes of which each differs visibly from the one before; alike: those of one place."""
    kinds = [str(kind) for kind in rng.permutation(KINDS)]
    scenes = [Scene(int(rng.integers(2**31)), kind=kinds[0])]
    for k, same in enumerate(alike, 1):
        last, tried = scenes[-1], 0
        while True:
            number, kind = int(rng.integers(2**31)), kinds[(k + tried) % len(kinds)]
            next_one = Scene(number, kind=last.kind, setting=last.setting) if same else Scene(number, kind=kind)
            tried += 1
            if _difference(last, next_one) > (UNLIKE if same else DIFFERENT) or tried > 20:
                break
        scenes.append(next_one)
    return scenes


def _difference(one: Scene, other: Scene) -> float:
    a, b = (np.mean([s.frame(t, (36, 64)) for t in (0.0, 1.0)], 0) for s in (one, other))
    return float(np.abs(a - b).mean())


def filmed(path: Path, reel: Reel, part: str, group: str) -> Truth:
    """Write it, and say what it is."""
    times = write(path, reel.frames(), reel.rate)
    height, width = reel.size
    return Truth(
        "/".join(path.parts[-2:]), part, group, width, height, float(reel.rate), reel.count, times[-1],
        reel.spans(times), reel.happened(times),
    )  # fmt: skip


def _event(path: Path, event: str, scale: Scale, key: tuple[int, ...]) -> Truth:
    """One scene, in which something happens that is no transition."""
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), RATES[rng.integers(len(RATES))]
    kinds = [kind for kind in KINDS if event != "pan" or kind not in ("talk", "studio")]
    scene = Scene(int(rng.integers(2**31)), kind=kinds[key[-1] % len(kinds)] if scale.name == "full" else None)
    count = round(rate * (scale.long if event == "long" else rng.uniform(4, 7)))
    footage: Footage = scene
    effects, events = [], []
    for first in (round(count * part) for part in ((0.3, 0.6) if event in ("flash", "pan", "crossing") else (0.45,))):
        if event == "flash":
            last = first + int(rng.integers(1, 4))
            effects.append(Effect(first, last, brighter(rng.uniform(0.5, 1.0, last - first).tolist())))
        elif event == "strobe":
            last = first + round(rng.uniform(1, 2) * rate)
            on, off = int(rng.integers(1, 3)), int(rng.integers(2, 5))
            effects.append(Effect(first, last, brighter([rng.uniform(0.4, 0.9)] * on + [0.0] * off)))
        elif event == "pan":
            last = first + round(rng.uniform(0.35, 0.9) * rate)
            far = rng.choice([-1, 1]) * rng.uniform(1.2, 3)
            if not events:
                footage = Whipped(scene, float(first / rate), float(last / rate), far)
            else:
                continue
        elif event == "crossing":
            last = first + round(rng.uniform(0.4, 1.2) * rate)
            paint = pyramid(thing(rng, str(rng.choice(["blob", "box", "shoulders", "disc"])), palette(rng)))
            back, radius = bool(rng.random() < 0.5), rng.uniform(0.5, 0.95)
            footage = Crossed(footage, float(first / rate), float(last / rate), paint, radius, back)
        elif event == "lights":
            last = first
            effects.append(Effect(0, first, dimmed(rng.uniform(0.15, 0.45))))
        else:
            continue
        events.append((event, first, last))
    return filmed(path, Reel(size, rate, [Shot(footage, count)], [], effects, events), PART, f"no {event}")
