"""Clips that are the same under what is done to videos on their way through the net, beside others that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from .filmed import filmed, seed_of
from .lettering import logo
from .places import KINDS
from .plan import Plan, Scale
from .reel import Reel, Shot
from .texture import Array, opencv
from .truth import Truth
from .world import Scene, over
from .write import X264, Coding, write

FAMILIES = {"quick": 2, "full": 40}
OTHERS = {"quick": 3, "full": 80}  # more that are unlike all
ALIKE = {"quick": 2, "full": 30}  # pairs of one place, seen from elsewhere, which are no duplicates
SECONDS = {"quick": 2.2, "full": 3.0}
COARSE = Coding(options={**X264, "crf": "35"})


def resized(image: Array, high: int, wide: int) -> Array:
    cv2 = opencv()
    return cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)


def smaller(image: Array, rng: np.random.Generator) -> Array:
    """Two thirds."""
    return resized(image, image.shape[0] // 3 * 2, image.shape[1] // 3 * 2)


def cropped(image: Array, rng: np.random.Generator) -> Array:
    """5 % of either side gone, evenly or at one end; even sides."""
    h, w = image.shape[:2]
    high, wide = round(h * 0.95 / 2) * 2, round(w * 0.95 / 2) * 2
    top, left = (
        int(part * whole) for part, whole in zip(rng.choice([0.0, 0.5, 1.0], 2), (h - high, w - wide), strict=True)
    )
    return np.ascontiguousarray(image[top : top + high, left : left + wide])


def barred(image: Array, rng: np.random.Generator) -> Array:
    """Above and below, or beside."""
    h, w = image.shape[:2]
    a, b = (int(h * 0.12) // 2 * 2, 0) if rng.random() < 0.5 else (0, int(w * 0.14) // 2 * 2)
    return np.pad(image, ((a, a), (b, b), (0, 0)))


def mirrored(image: Array, rng: np.random.Generator) -> Array:
    return np.ascontiguousarray(image[:, ::-1])


def brighter(image: Array, rng: np.random.Generator) -> Array:
    """By 20 of 255."""
    return np.clip(image.astype(np.int16) + 20, 0, 255).astype(np.uint8)


def marked(image: Array, rng: np.random.Generator) -> Array:
    """With a logo."""
    return over(image, logo(rng, (image.shape[0], image.shape[1]), int(rng.integers(4)), 1.0, bool(rng.random() < 0.5)))


def same(image: Array, rng: np.random.Generator) -> Array:
    return image


def several(image: Array, rng: np.random.Generator) -> Array:
    return smaller(cropped(brighter(image, rng), rng), rng)


# What is done to each frame, all by the same random numbers; how it is encoded; how many frames a second of those there
# were are shown.
WAYS: dict[str, tuple[Callable[[Array, np.random.Generator], Array], Coding | None, Fraction]] = {
    "re-encoded": (same, COARSE, Fraction(1)),
    "smaller": (smaller, None, Fraction(1)),
    "fewer frames": (same, None, Fraction(3, 5)),
    "more frames": (same, None, Fraction(6, 5)),
    "cropped": (cropped, None, Fraction(1)),
    "barred": (barred, None, Fraction(1)),
    "mirrored": (mirrored, None, Fraction(1)),
    "logo": (marked, None, Fraction(1)),
    "brighter": (brighter, None, Fraction(1)),
    "several": (several, COARSE, Fraction(1)),
}


def plans(scale: Scale, seed: int) -> Iterator[Plan]:
    """What is to be made."""
    for k in range(FAMILIES[scale.name]):
        yield Plan(f"duplicates/family-{k:02}", partial(_family, k, scale, (seed, 7, k)))
    for k in range(OTHERS[scale.name]):
        yield Plan(f"duplicates/other-{k:02}", partial(_others, k, scale, False, (seed, 8, k)))
    for k in range(ALIKE[scale.name]):
        yield Plan(f"duplicates/alike-{k:02}", partial(_others, k, scale, True, (seed, 9, k)))


def _family(number: int, scale: Scale, key: tuple[int, ...], folder: Path) -> list[Truth]:
    """An original and all that became of it."""
    rng = np.random.default_rng(key)
    scene, size, rate = Scene(seed_of(rng), kind=KINDS[number % len(KINDS)]), scale.size(rng), scale.rate(rng)
    reel = Reel(size, rate, [Shot(scene, round(SECONDS[scale.name] * rate), rng.uniform(0, 20))], [])
    frames, name = list(reel.frames()), f"family-{number:02}"
    found = [Truth(f"duplicates/{name}.mp4", "duplicates", "duplicates", how="original")]
    write(folder / found[0].file, frames, rate)
    made = {found[0].file: (frames, rate)}
    for way, (change, coding, part) in WAYS.items():
        draws, shown = int(rng.integers(2**31)), rate * part
        count = round(len(frames) * part)
        taken = [frames[min(len(frames) - 1, int(k / part))] for k in range(count)]
        changed = [change(frame, np.random.default_rng(draws)) for frame in taken]
        file = f"duplicates/{name}-{way.replace(' ', '-')}.mp4"
        write(folder / file, changed, shown, coding)
        found.append(Truth(file, "duplicates", "duplicates", how=way))
        made[file] = changed, shown
    for truth in found:
        images, shown = made[truth.file]
        truth.family, (truth.height, truth.width) = name, images[0].shape[:2]
        truth.rate, truth.frames, truth.seconds = float(shown), len(images), float(len(images) / shown)
    return found


def _others(number: int, scale: Scale, alike: bool, key: tuple[int, ...], folder: Path) -> list[Truth]:
    """A source that is like no other, or two of one place."""
    rng = np.random.default_rng(key)
    kinds = [kind for kind in KINDS if not alike or kind != "studio"]  # of which every angle shows the same
    first = Scene(seed_of(rng), kind=kinds[number % len(kinds)])
    scenes = [first, Scene(seed_of(rng), kind=first.kind, setting=first.setting)] if alike else [first]
    size, rate, begin = scale.size(rng), scale.rate(rng), rng.uniform(0, 20)
    found = []
    for letter, scene in zip("ab", scenes, strict=False):
        reel = Reel(size, rate, [Shot(scene, round(SECONDS[scale.name] * rate), begin)], [])
        file = f"duplicates/{'alike' if alike else 'other'}-{number:02}{letter if alike else ''}.mp4"
        found.append(filmed(folder, file, "alike" if alike else "other", reel))
    return found
