"""Videos of one scene with black bars, logos, watermarks and words, and the same without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .filmed import filmed, seed_of, varied
from .footage import Reels, camera_shots, preview_shots
from .lettering import CYRILLIC, GREEK, STYLES, TITLES, box_of, font, logo, sentence, sign, watermark, written
from .places import KINDS, Mover
from .plan import Plan, Scale
from .reel import Box, Effect, Join, Reel, Shot
from .texture import Array, pyramid
from .truth import Truth
from .world import Footage, Scene, over

# Group: videos of it, quick and full. A video of scenes whose bars differ is its own kind.
BARS = {"letterbox": (1, 24), "pillarbox": (1, 24), "windowbox": (0, 12), "bars dark": (1, 18), "bars change": (1, 12)}
MARKS = {"logo": (1, 24), "logo see-through": (1, 24), "logo letters": (1, 18), "watermark": (1, 24)}
TEXTS = {
    "subtitle": (1, 24), "subtitle part": (1, 18), "subtitle changing": (1, 18), "title": (1, 18),
    "text other": (1, 18), "scene text": (1, 24),
}  # fmt: skip
REAL = "real "  # so groups begin that are laid over real footage
REAL_BARS = {"real letterbox": (1, 16), "real pillarbox": (0, 10), "real bars dark": (0, 10)}
REAL_MARKS = {
    "real logo": (1, 24), "real logo see-through": (1, 24), "real logo letters": (0, 14), "real watermark": (1, 24),
}  # fmt: skip
REAL_TEXTS = {
    "real subtitle": (1, 20), "real subtitle part": (0, 12), "real subtitle changing": (0, 10), "real title": (0, 12),
    "real text other": (0, 10),
}  # fmt: skip
STILL = {"still": (1, 24), "still light": (0, 12)}  # nothing is laid over these, and hardly anything moves
SECONDS = {"quick": 2.2, "full": 3.5}
SEEN_THROUGH, FAINT = 0.5, 0.25  # strength of half transparent logos and of tiled watermarks
TRIES, LEAST = 12, 12.0  # levels that a mark changes, so that a person sees it
UNDER_BARS = ((2.39, 2.35, 1.85, 2.0), (4 / 3, 1.0, 9 / 16, 1.19))  # width over height of pictures between bars


def plans(scale: Scale, seed: int, previews: Path | None = None) -> Iterator[Plan]:
    """What is to be made; nothing real where no real footage is at hand."""
    makers = [(BARS, _barred), (MARKS, _marked), (TEXTS, _texted), (STILL, _still)]
    shots = tuple(camera_shots() + preview_shots(previews))
    if shots:
        makers += [(groups, partial(maker, shots=shots)) for groups, maker in _REAL]
    number = 0
    for groups, maker in makers:
        for group, counts in groups.items():
            number += 1
            for k in range(counts[scale.name == "full"]):
                name = f"overlays/{group.replace(' ', '-')}-{k:02}"
                yield Plan(name, partial(maker, name, group, scale, (seed, 3, number, k)))


def _scene(rng: np.random.Generator, key: tuple[int, ...]) -> Scene:
    return Scene(seed_of(rng), kind=KINDS[(key[-1] + 2 * key[-2]) % len(KINDS)])


def _footage(rng: np.random.Generator, key: tuple[int, ...], shots: Sequence[Reels]) -> Footage:
    """Made up where there are no shots."""
    return shots[int(rng.integers(len(shots)))] if shots else _scene(rng, key)


@dataclass(frozen=True)
class Dimmed:
    footage: Footage
    gain: float

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        return (self.footage.frame(seconds, size) * np.float32(self.gain)).astype(np.uint8)


def _still(name: str, group: str, scale: Scale, key: tuple[int, ...], folder: Path) -> list[Truth]:
    """A camera that stands still, before a place in which one thing moves; or nothing but the light."""
    rng = np.random.default_rng(key)
    scene = _scene(rng, key)
    scene.pan, scene.shake, scene.turning = 0.0, [], 0.0
    scene.tilt, scene.zooming = (0.0, *scene.tilt[1:]), (0.0, *scene.zooming[1:])
    scene.movers = scene.movers[: int(group == "still")]
    if group == "still light":
        scene.drift = 0.15, 2.0, scene.drift[2]
    size, rate = scale.size(rng), scale.rate(rng)
    shot = Shot(scene, round(SECONDS[scale.name] * rate), rng.uniform(0, 20))
    return [filmed(folder, f"{name}.mp4", group, Reel(size, rate, [shot], []))]


# -- bars ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Barred:
    """Footage between black bars, of the same width on both sides."""

    footage: Footage
    box: Box

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        frame = np.zeros((*size, 3), np.uint8)
        left, top, width, height = self.box
        frame[top : top + height, left : left + width] = self.footage.frame(seconds, (height, width))
        return frame


def bars(rng: np.random.Generator, group: str, size: tuple[int, int]) -> Box:
    """Where the picture is; even numbers, since chroma has half of the pixels."""
    h, w = size
    wide, narrow = ([v for v in values if (v > w / h) == (k == 0)] for k, values in enumerate(UNDER_BARS))
    way = "letterbox" if group == "letterbox" or (group != "pillarbox" and rng.random() < 0.5) else "pillarbox"
    aspect = float(rng.choice(wide if way == "letterbox" else narrow))
    height, width = (round(w / aspect / 2) * 2, w) if way == "letterbox" else (h, round(h * aspect / 2) * 2)
    if group == "windowbox":
        height, width = round(height * 0.85 / 2) * 2, round(width * 0.85 / 2) * 2
    left, top = (w - width) // 4 * 2, (h - height) // 4 * 2
    return Box(left, top, width, height)


def _barred(
    name: str, group: str, scale: Scale, key: tuple[int, ...], folder: Path, shots: Sequence[Reels] = ()
) -> list[Truth]:
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), scale.rate(rng)
    count = round(SECONDS[scale.name] * rate)
    scenes: Sequence[Footage]
    if group == "bars change":
        scenes = varied(rng, [False, False])
    elif group == "bars dark":
        scene = _scene(rng, key)
        scene.gain, scene.lift, scene.gamma = rng.uniform(0.2, 0.4), 0.0, 1.0
        scenes = [scene]
    else:
        scenes = [_footage(rng, key, shots)]
        if group == "real bars dark":
            scenes = [Dimmed(scenes[0], rng.uniform(0.2, 0.4))]
    whole = Box(0, 0, size[1], size[0])
    boxes = [bars(rng, group.removeprefix(REAL), size) for _ in scenes]
    if group == "bars change":
        boxes[int(rng.integers(3))] = whole
    joins = [Join()] * (len(scenes) - 1)
    begin = rng.uniform(0, 20)
    shown = [
        Shot(scene if box == whole else Barred(scene, box), count, begin)
        for scene, box in zip(scenes, boxes, strict=True)
    ]
    reel = Reel(size, rate, shown, joins)
    reel.pictures = [(box, k * count, (k + 1) * count) for k, box in enumerate(boxes)]
    told = filmed(folder, f"{name}.mp4", group, reel)
    clean = Reel(size, rate, [Shot(scene, count, begin) for scene in scenes], joins)
    return _with_twin(folder, name, told, clean)


def _with_twin(folder: Path, name: str, told: Truth, clean: Reel) -> list[Truth]:
    """The same without what the group is about."""
    told.twin = f"{name}-clean.mp4"
    return [told, filmed(folder, told.twin, f"{told.group} clean", clean)]


# -- logos and watermarks --------------------------------------------------------------------------------------------


def covering(layer: Array) -> Callable[[Array, int], Array]:
    """A layer over each frame."""
    return lambda frame, number: over(frame, layer)


def _seen(layer: Array, frame: Array) -> float:
    """How much a layer changes what it lies on: levels, on average."""
    change = np.abs(over(frame, layer).astype(int) - frame).mean(2)
    return float(change[layer[..., 3] > 0].mean())


def _marked(
    name: str, group: str, scale: Scale, key: tuple[int, ...], folder: Path, shots: Sequence[Reels] = ()
) -> list[Truth]:
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), scale.rate(rng)
    count, mark = round(SECONDS[scale.name] * rate), group.removeprefix(REAL)
    for _ in range(TRIES):
        shot = Shot(_footage(rng, key, shots), count, rng.uniform(0, 20))
        if mark == "watermark":
            layer, boxes = watermark(rng, size, FAINT)
        else:
            strength = SEEN_THROUGH if mark == "logo see-through" else rng.choice([1.0, 0.85])
            layer = logo(rng, size, int(rng.integers(4)), strength, mark == "logo letters")
            boxes = [box_of(layer)]
        if _seen(layer, shot.footage.frame(shot.begin + 1, size)) > LEAST:
            break
    reel = Reel(size, rate, [shot], [], [Effect(0, count, covering(layer))])
    kind = mark.removesuffix(" letters")
    reel.overlays = [(kind, box, 0, count) for box in boxes]
    told = filmed(folder, f"{name}.mp4", group, reel)
    told.text = None if mark in ("watermark", "logo letters") else False
    return _with_twin(folder, name, told, Reel(size, rate, [shot], []))


# -- words -----------------------------------------------------------------------------------------------------------


def _texted(
    name: str, group: str, scale: Scale, key: tuple[int, ...], folder: Path, shots: Sequence[Reels] = ()
) -> list[Truth]:
    rng = np.random.default_rng(key)
    size, rate = scale.size(rng), scale.rate(rng)
    count = round(SECONDS[scale.name] * rate)
    scene, begin = _footage(rng, key, shots), rng.uniform(0, 20)
    if group == "scene text":
        return _signs(name, group, Reel(size, rate, [Shot(scene, count, begin)], []), rng, key, folder)
    half, what = count // 2, group.removeprefix(REAL)
    late = int(rng.random() < 0.5) * (count - half)
    spans = {"subtitle part": [(late, late + half)], "subtitle changing": [(0, half), (half, count)]}.get(
        what, [(0, count)]
    )
    style, low = str(rng.choice(STYLES)), rng.uniform(0.82, 0.88)
    high = rng.uniform(0.055, 0.085) if what != "title" else rng.uniform(0.09, 0.14)
    reel = Reel(size, rate, [Shot(scene, count, begin)], [])
    for first, last in spans:
        words, latin, middle = sentence(rng), True, (0.5, low)
        if what == "title":
            words, middle = str(rng.choice(TITLES)), (0.5, rng.uniform(0.4, 0.55))
        elif what == "text other":
            latin = font(12, latin=False) is None
            words = sentence(rng) if latin else sentence(rng, CYRILLIC if key[-1] % 2 else GREEK)
        layer = written(words, size, high, middle, style, latin)
        reel.effects.append(Effect(first, last, covering(layer)))
        reel.overlays.append(("title" if what == "title" else "subtitle", box_of(layer), first, last))
    told = filmed(folder, f"{name}.mp4", group, reel)
    told.text = True
    return _with_twin(folder, name, told, Reel(size, rate, [Shot(scene, count, begin)], []))


def _signs(
    name: str, group: str, reel: Reel, rng: np.random.Generator, key: tuple[int, ...], folder: Path
) -> list[Truth]:
    """Words that are filmed, and move with what is: none that was burned in, and so without a twin."""
    kind = ("nature", "city", "room", "texture", "crowd")[key[-1] % 5]
    scene = Scene(seed_of(rng), kind=kind)
    scene.pan = float(rng.choice([-1, 1]) * rng.uniform(0.12, 0.35))
    for k in range(int(rng.integers(1, 4))):
        at = (rng.uniform(-0.5, 0.5) + 0.9 * k, rng.uniform(-0.2, 0.25))
        size = rng.uniform(0.12, 0.22)
        scene.movers.append(Mover(pyramid(sign(rng)), at, (0.0, 0.0), (0.0, 0.0), 1.0, 0.0, 0.0, size, 1.0, 1.0))
    reel.shots = [Shot(scene, reel.shots[0].frames, reel.shots[0].begin)]
    return [filmed(folder, f"{name}.mp4", group, reel)]


_REAL = ((REAL_BARS, _barred), (REAL_MARKS, _marked), (REAL_TEXTS, _texted))
