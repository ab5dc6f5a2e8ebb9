"""Where made-up footage is shot: layers from far to near, and the things that move before them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .texture import Array, covered, field, noise, outline, pyramid, solid, textured, thing

UNIT = 320  # pixels of a texture for what is as long as the frame is high
HIGH, WIDE = 2 * UNIT, 4 * UNIT  # of the textures of layers
KINDS = ("nature", "texture", "water", "city", "room", "talk", "cartoon", "studio", "crowd")


@dataclass(frozen=True)
class Layer:
    texture: list[Array]  # its pyramid
    depth: float  # how far it goes with the camera: 0 not at all, 1 as the ground


@dataclass(frozen=True)
class Mover:
    """A thing and its way. Lengths in heights of the frame, times in seconds."""

    texture: list[Array]
    place: tuple[float, float]
    speed: tuple[float, float]
    sway: tuple[float, float]
    pace: float  # of swaying, radians a second
    phase: float
    spin: float  # radians a second
    radius: float
    flat: float  # height over width
    depth: float
    talks: bool = False  # opens and closes, as a mouth does


def layers(rng: np.random.Generator, kind: str, colours: Array) -> list[Layer]:
    """From far to near; the first covers everything."""
    if kind == "nature":
        return [_sky(rng, colours), *(_ridge(rng, colours[k + 1], 0.45 + 0.25 * k, -0.1 + 0.22 * k) for k in range(3))]
    if kind == "city":
        return [_sky(rng, colours), *(_houses(rng, colours[k + 1 : k + 4], 0.5 + 0.4 * k, k) for k in range(2))]
    if kind in ("room", "talk"):
        return [Layer(pyramid(solid(_room(rng, colours))), 1.0 if kind == "room" else 0.7)]
    if kind == "cartoon":
        return [Layer(pyramid(solid(_flat(rng, colours))), 0.6)]
    if kind == "studio":
        y = np.linspace(-1, 1, HIGH)[:, None, None]
        ramp = colours[0] + (colours[1] - colours[0]) * np.abs(y) + np.zeros((HIGH, WIDE, 1))
        return [Layer(pyramid(solid(ramp + 0.01 * field(rng, HIGH, WIDE, 1.1)[..., None])), 0.3)]
    ground = Layer(pyramid(solid(textured(rng, HIGH, WIDE, colours, rng.uniform(0.04, 0.12)))), 1.0)
    if kind == "water":
        above = textured(rng, HIGH, WIDE, colours[1:], 0.1)
        cover = np.clip(0.5 + 0.4 * field(rng, HIGH, WIDE, 1.5), 0, 0.8)
        return [ground, Layer(pyramid(covered(above, cover)), 1.0)]
    return [ground]


def _sky(rng: np.random.Generator, colours: Array) -> Layer:
    y = np.linspace(-1, 1, HIGH)[:, None, None]
    sky = colours[0] * 0.6 + 0.4 + (colours[1] - colours[0]) * 0.5 * (1 - np.abs(y)) + np.zeros((HIGH, WIDE, 1))
    clouds = np.clip(field(rng, HIGH, WIDE, 1.5) * 0.6 - 0.2, 0, 0.8)[..., None]
    return Layer(pyramid(solid(sky + (0.95 - sky) * clouds)), 0.2)


def _ridge(rng: np.random.Generator, colour: Array, depth: float, low: float) -> Layer:
    """Hills, trees, ground."""
    line = (low + rng.uniform(0.05, 0.2) * noise(rng, 2, WIDE, rng.uniform(0.9, 1.6))[0]) * UNIT + UNIT
    rows = np.arange(HIGH)[:, None]
    cover = np.clip((rows - line[None]) / 2 + 0.5, 0, 1)
    shade = 1 - 0.3 * np.clip((rows - line[None]) / UNIT, 0, 1)
    image = textured(rng, HIGH, WIDE, np.stack([colour, colour * 0.6, colour * 0.8 + 0.1]), 0.08) * shade[..., None]
    return Layer(pyramid(covered(image, cover)), depth)


def _houses(rng: np.random.Generator, colours: Array, depth: float, row: int) -> Layer:
    image = textured(rng, HIGH, WIDE, colours, 0.05)
    cover, x = np.zeros((HIGH, WIDE), np.float32), 0
    while x < WIDE - 40:
        wide = int(min(rng.integers(70, 260), WIDE - x))
        top = int(UNIT * rng.uniform(0.4, 1.15) + 0.25 * UNIT * row)
        colour = colours[rng.integers(len(colours))] * rng.uniform(0.5, 1.1)
        image[top:, x : x + wide] = 0.6 * colour + 0.4 * image[top:, x : x + wide]
        step, lit = int(rng.integers(14, 34)), rng.uniform(0.15, 1.1)
        for y in range(top + step // 2, HIGH - step, step):
            for left in range(x + step // 2, x + wide - step, step):
                image[y : y + step // 2, left : left + step // 2] *= rng.choice([0.45, lit + 0.6, 0.8])
        cover[top:, x : x + wide] = 1
        x += wide + int(rng.integers(0, 60) * (rng.random() < 0.5))
    cover[int(1.4 * UNIT) :] = row
    image[int(1.4 * UNIT) :] = 0.35 * image[int(1.4 * UNIT) :] + 0.1  # the street
    return Layer(pyramid(covered(np.clip(image, 0, 1), cover)), depth)


def _room(rng: np.random.Generator, colours: Array) -> Array:
    """A wall with a floor, furniture and pictures."""
    image = textured(rng, HIGH, WIDE, colours[:2] * 0.5 + 0.3, 0.02)
    image *= (1 + 0.25 * np.sin(np.linspace(0, 2 * math.pi, WIDE) + rng.uniform(0, 6)))[None, :, None]
    floor = int(UNIT * rng.uniform(1.2, 1.45))
    image[floor:] = textured(rng, HIGH - floor, WIDE, colours[2:4] * 0.6, 0.06)
    for _ in range(int(rng.integers(9, 20))):
        wide, high = rng.integers(40, 330), rng.integers(40, 300)
        x, hangs = int(rng.integers(0, WIDE - wide)), rng.random() < 0.5
        y = int(UNIT * rng.uniform(0.45, 0.95)) if hangs else int(floor + rng.integers(0, 60) - high)
        inner = textured(rng, int(high), int(wide), colours[rng.permutation(len(colours))], rng.uniform(0.02, 0.1))
        inner[[0, 1, 2, -1, -2, -3]], inner[:, [0, 1, 2, -1, -2, -3]] = 0.12, 0.12
        image[y : y + high, x : x + wide] = inner[: max(0, HIGH - y)]
    return np.clip(image, 0, 1)


def _flat(rng: np.random.Generator, colours: Array) -> Array:
    """Few flat colours with dark lines."""
    image = np.broadcast_to(colours[0], (HIGH, WIDE, 3)).copy()
    for k in range(1, 4):
        line = (1 + 0.2 * k - 0.3 + 0.12 * noise(rng, 2, WIDE, 2.2)[0]) * UNIT
        below = np.arange(HIGH)[:, None] > line[None]
        image[below] = colours[k]
        image[np.abs(np.arange(HIGH)[:, None] - line[None]) < 2] = 0.1
    for _ in range(int(rng.integers(5, 14))):
        side = int(rng.integers(60, 300))
        inside = outline(rng, str(rng.choice(["blob", "polygon", "box", "disc"])), side)
        y, x = int(rng.integers(0, HIGH - side)), int(rng.integers(0, WIDE - side))
        part = image[y : y + side, x : x + side]
        part[inside > 0] = colours[rng.integers(len(colours))]
        part[np.abs(inside) < 3 / side] = 0.1
    return image


def movers(place: np.random.Generator, rng: np.random.Generator, kind: str, colours: Array) -> list[Mover]:
    """What moves: the place says what it looks like, rng where it is and goes."""
    if kind == "talk":
        return [one for k in range(int(place.choice([1, 1, 2]))) for one in _talking(place, rng, colours, k)]
    count = {"crowd": place.integers(14, 30), "studio": 1, "water": place.integers(0, 3)}.get(
        kind, place.integers(1, 6)
    )
    shapes = {"city": ("car", "car", "blob", "shoulders"), "studio": ("blob", "polygon", "box", "ring")}
    shapes = shapes.get(kind, ("blob", "polygon", "box", "ring", "disc", "blob"))
    found, painted = [], []
    for k in range(int(count)):
        if k < 7:  # a crowd is of few kinds
            shape = str(place.choice(shapes))
            paint = colours[place.permutation(len(colours))]
            painted.append((shape, pyramid(thing(place, shape, paint, kind == "cartoon"))))
        shape, texture = painted[k % len(painted)]
        small, large = {"crowd": (0.04, 0.12), "studio": (0.2, 0.38)}.get(kind, (0.06, 0.28))
        radius = place.uniform(small, large)
        speed = 0.0 if kind == "studio" else rng.choice([-1, 1]) * rng.uniform(0.03, 0.45) * (rng.random() < 0.8)
        low = shape == "car"
        at = 0.0 if kind == "studio" else rng.uniform(-1, 1), rng.uniform(0.2, 0.4) if low else rng.uniform(-0.35, 0.4)
        found.append(
            Mover(
                texture,
                at,
                (speed, 0),
                (0, 0) if low else (rng.uniform(0, 0.08), rng.uniform(0, 0.1)),
                rng.uniform(0.5, 3),
                rng.uniform(0, 6),
                0.0 if low or shape == "shoulders" else rng.normal(0, 0.8) + 0.3 * (kind == "studio"),
                radius,
                rng.uniform(0.7, 1.1),
                rng.uniform(0.6, 1.2),
            )
        )
    return found


def _talking(place: np.random.Generator, rng: np.random.Generator, colours: Array, k: int) -> list[Mover]:
    """Head and shoulders of somebody who hardly moves."""
    skin = np.array([0.85, 0.63, 0.5]) * place.uniform(0.5, 1.1)
    x, y, size = (
        rng.uniform(-0.25, 0.25) + (k and rng.choice([-1, 1]) * 0.5),
        rng.uniform(-0.06, 0.08),
        rng.uniform(0.8, 1.5),
    )
    pace, phase, sway = rng.uniform(0.4, 1.2), rng.uniform(0, 6), rng.uniform(0.003, 0.02)
    face = np.stack([skin, skin * 0.95, skin * 0.88])
    dark = np.full((3, 3), 0.12) * place.uniform(0.5, 2.5)
    parts = [  # shape, colours, place below the head's middle, radius, height over width
        ("shoulders", colours[place.permutation(len(colours))], (0, 0.47), 0.42, 0.8),
        ("blob", dark, (0, -0.07), 0.25, 1.0),
        ("head", face, (0, 0.0), 0.18, 1.0),
        ("disc", dark, (-0.06, -0.02), 0.017, 0.7),
        ("disc", dark, (0.06, -0.02), 0.017, 0.7),
        ("disc", np.stack([skin * 0.4] * 3), (0, 0.095), 0.045, 0.5),
    ]
    found = []
    for n, (shape, paint, (dx, dy), radius, flat) in enumerate(parts):
        body, depth = n == 0, 0.8 + 0.001 * n + 0.01 * k
        found.append(
            Mover(
                pyramid(thing(place, shape, paint)), (x + dx * size, y - 0.08 + dy * size), (0, 0),
                (sway * 0.4 if body else sway, sway * 0.3), pace, phase, 0.0, radius * size, flat, depth, talks=n == 5,
            )
        )  # fmt: skip
    return found
