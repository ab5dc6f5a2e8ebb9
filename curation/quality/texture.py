"""What made-up footage is painted with: 1/f noise, palettes, soft shapes. numpy and OpenCV, seeded.

A texture is (h, w, 4) bytes, its colours already multiplied by what covers; those of layers have no border: their left
goes on at their right, their top at their bottom.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType

import numpy as np

from ...libraries import library

Array = np.ndarray


def opencv() -> ModuleType:
    return library("cv2", "making footage up")


def noise(rng: np.random.Generator, height: int, width: int, slope: float = 1.1) -> Array:
    """(height, width) of mean 0 and deviation 1, its amplitude falling with frequency^slope, as in photographs."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(y, x)
    frequency[0, 0] = 1
    low = 3 / max(height, width)  # below it the amplitude stays: no single wave outweighs the rest
    amplitude = (np.maximum(frequency, low) ** -slope).astype(np.float32)
    amplitude[0, 0] = 0
    shape = frequency.shape
    spectrum = amplitude * (
        rng.standard_normal(shape, dtype=np.float32) + 1j * rng.standard_normal(shape, dtype=np.float32)
    )
    field = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
    return field / max(1e-6, float(field.std()))


POOL = 8  # fields of one size and slope that are drawn; what is shown is a part of one, mirrored and turned over


def field(rng: np.random.Generator, height: int, width: int, slope: float) -> Array:
    """`noise`, quicker for large ones: moved, mirrored and turned over in sign, of few that are made once."""
    if height * width < 2**18:
        return noise(rng, height, width, slope)
    one = _pool(int(rng.integers(POOL)), height, width, round(slope, 1))
    one = np.roll(one, (int(rng.integers(height)), int(rng.integers(width))), (0, 1))
    one = one[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return one * np.float32(rng.choice([-1, 1]))


@lru_cache(maxsize=64)
def _pool(number: int, height: int, width: int, slope: float) -> Array:
    return noise(np.random.default_rng([10, number, round(10 * slope)]), height, width, slope)


def palette(rng: np.random.Generator, count: int = 6, saturation: float = 1.0) -> Array:
    """(count, 3) in [0, 1]: a few neighbouring hues and one across from them, from dark to bright."""
    hue, spread = rng.random(), rng.uniform(0.03, 0.14)
    hues = hue + rng.normal(0, spread, count)
    hues[-1] += rng.choice([0.0, 0.5, 0.33])
    strength = np.clip(rng.uniform(0.05, 0.55, count) * saturation, 0, 1)
    value = np.clip(np.linspace(0.18, 0.95, count) + rng.normal(0, 0.06, count), 0.05, 1)
    return rng.permutation(np.stack([_rgb(h, s, v) for h, s, v in zip(hues, strength, value, strict=True)]))


def _rgb(hue: float, saturation: float, value: float) -> Array:
    wave = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(wave, 0, 1))


def textured(rng: np.random.Generator, height: int, width: int, colours: Array, detail: float = 0.06) -> Array:
    """(h, w, 3) in [0, 1]: patches of some colours, lit unevenly, with fine detail."""
    image = np.broadcast_to(colours[0], (height, width, 3)).astype(np.float32)
    for colour in colours[1:3]:
        part = 1 / (1 + np.exp(-rng.uniform(1.5, 6) * (field(rng, height, width, 1.5) + rng.uniform(-0.5, 0.5))))
        image = image + part[..., None] * (colour - image)
    fine = field(rng, height, width, rng.choice([0.8, 0.9, 1.1]))
    return np.clip(image + detail * fine[..., None], 0, 1).astype(np.float32)


def to_bytes(image: Array) -> Array:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def covered(image: Array, cover: Array) -> Array:
    """(h, w, 3) and (h, w), both in [0, 1] -> (h, w, 4) bytes, colours multiplied by what covers."""
    return to_bytes(np.concatenate([image * cover[..., None], cover[..., None]], 2))


def solid(image: Array) -> Array:
    """(h, w, 3) in [0, 1] -> (h, w, 4) bytes, all covered: OpenCV moves four channels faster than three."""
    return np.concatenate([to_bytes(image), np.full((*image.shape[:2], 1), 255, np.uint8)], 2)


def pyramid(texture: Array, levels: int = 4) -> list[Array]:
    """Each half of the one before, so that far and small things do not flicker."""
    cv2, found = opencv(), [np.ascontiguousarray(texture)]  # else it would be copied for every frame
    for _ in range(levels):
        found.append(cv2.pyrDown(found[-1]))
    return found


# -- things ----------------------------------------------------------------------------------------------------------


def disc(side: int) -> tuple[Array, Array]:
    """Distance from the centre and angle of a square's pixels; its sides are 1 away."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    return np.hypot(x, y), np.arctan2(y, x)


def outline(rng: np.random.Generator, kind: str, side: int) -> Array:
    """How far inside a shape each pixel lies, negative outside; about 1 at the centre of a round one."""
    distance, angle = disc(side)
    y, x = distance * np.sin(angle), distance * np.cos(angle)
    if kind == "blob":
        edge = 0.72 + sum(
            rng.normal(0, 0.16 / k) * np.cos(k * angle + rng.uniform(0, 2 * math.pi)) for k in range(2, 6)
        )
        return np.clip(edge, 0.3, 0.94) - distance
    if kind == "polygon":
        corners = int(rng.integers(3, 8))
        sector = (angle + rng.uniform(0, 6)) % (2 * math.pi / corners) - math.pi / corners
        return 0.9 * math.cos(math.pi / corners) - distance * np.cos(sector)
    if kind == "box":
        return np.minimum(rng.uniform(0.45, 0.9) - np.abs(x), rng.uniform(0.35, 0.9) - np.abs(y))
    if kind == "ring":
        return 0.22 - np.abs(distance - 0.68)
    if kind == "shoulders":  # a body below a neck
        return np.minimum(1.0 - y, 0.85 - np.hypot(x, np.maximum(0.25 - y, 0) * 1.1 + 0.001))
    if kind == "head":
        return 0.9 - np.hypot(x * 1.25, y)
    if kind == "car":
        body = np.minimum(0.95 - np.abs(x), 0.22 - np.abs(y - 0.15))
        roof = np.minimum(0.5 - np.abs(x) - 0.4 * (y + 0.2), 0.25 - np.abs(y + 0.2))
        wheels = np.maximum(0.17 - np.hypot(x - 0.55, y - 0.38), 0.17 - np.hypot(x + 0.55, y - 0.38))
        return np.maximum(np.maximum(body, roof), wheels)
    return 0.9 - distance


def thing(rng: np.random.Generator, kind: str, colours: Array, flat: bool = False, side: int = 160) -> Array:
    """(side, side, 4): a shape with a texture of its own, lit from one side; flat: one colour and a dark line."""
    inside = outline(rng, kind, side)
    edge = 2.5 / side if flat else rng.uniform(2, 7) / side
    cover = np.clip(inside / edge + 0.5, 0, 1)
    if flat:
        image = np.broadcast_to(colours[0], (side, side, 3)) * np.where(inside < 0.06, 0.15, 1)[..., None]
        return covered(image, cover)
    image = textured(rng, side, side, colours, rng.uniform(0.03, 0.1))
    if rng.random() < 0.4:  # a pattern that shows how it turns
        distance, angle = disc(side)
        stripes = np.sin(distance * rng.uniform(8, 20) + rng.integers(0, 6) * angle) > 0.2
        image = np.where(stripes[..., None], image, image * 0.3 + 0.7 * colours[-1])
    distance, angle = disc(side)
    light = 1 + rng.uniform(0.1, 0.4) * distance * np.cos(angle - rng.uniform(0, 2 * math.pi))
    return covered(np.clip(image * (light * np.clip(0.75 + inside, 0, 1.0))[..., None], 0, 1), cover)
