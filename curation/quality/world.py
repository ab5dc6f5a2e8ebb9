"""Endless made-up footage: `Scene(seed)` shows something at any time, at any size.

Far and near layers and moving things (places.py) before a camera that pans, zooms, shakes or stands still; light that
drifts; grain. Two sizes or rates of one scene show the same. A scene with another one's `setting` shows that one's
place, palette and things from elsewhere.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from .places import KINDS, UNIT, Layer, Mover, layers, movers
from .texture import Array, opencv, palette, to_bytes

BLUR = 5  # pictures in one frame of a very fast camera


class Footage(Protocol):
    """What can be filmed."""

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        """(h, w, 3) bytes. size: (h, w)."""
        ...


class Scene:
    """seed: what moves how, from where it is seen. setting: the place and its colours, of its own if not given."""

    def __init__(self, seed: int, *, kind: str | None = None, setting: int | None = None) -> None:
        self.seed, self.setting = seed, seed if setting is None else setting
        place = np.random.default_rng([11, self.setting])
        drawn = str(place.choice(KINDS))
        self.kind = kind = kind or drawn
        self.colours = palette(place, saturation=1.4 if kind == "cartoon" else 1.0)
        self.layers = layers(place, kind, self.colours)
        rng = np.random.default_rng([12, self.seed])
        self.movers = movers(place, rng, kind, self.colours)
        self._camera(rng)
        self._light(place, rng)
        self._grain: dict[tuple[int, int], Array] = {}

    def frame(self, seconds: float, size: tuple[int, int], shift: tuple[float, float] = (0, 0)) -> Array:
        """shift: the camera's, beside its own way; see `Footage.frame`."""
        image = self._seen(seconds, size, shift)
        image = opencv().LUT(image, self._tones(seconds))
        return self._with_grain(image, seconds)

    def panned(self, seconds: float, size: tuple[int, int], a: float, b: float) -> Array:
        """While the camera goes from a to b, sideways: a frame blurred by it."""
        steps = [self._seen(seconds, size, (a + (b - a) * k / BLUR, 0)).astype(np.float32) for k in range(BLUR)]
        image = opencv().LUT((np.mean(steps, 0) + 0.5).astype(np.uint8), self._tones(seconds))
        return self._with_grain(image, seconds)

    # -- what it is made of -------------------------------------------------------------------------------------------

    def _camera(self, rng: np.random.Generator) -> None:
        """Where it looks at first, and how it moves."""
        still = self.kind in ("talk", "studio")
        moves = rng.random() > (0.7 if still else 0.3)
        self.start = rng.uniform(0, 4), rng.uniform(-0.12, 0.12)
        self.pan = moves * rng.choice([-1, 1]) * (rng.uniform(0.02, 0.08) if still else rng.uniform(0.03, 0.4))
        self.tilt = moves * rng.uniform(0, 0.08), rng.uniform(0.1, 0.6), rng.uniform(0, 6)
        self.zoom = rng.uniform(1.05, 1.8 if self.setting != self.seed else 1.3)
        self.zooming = (rng.random() < 0.35) * rng.uniform(0.05, 0.25), rng.uniform(0.1, 0.5), rng.uniform(0, 6)
        hand = (rng.random() < (0.2 if still else 0.4)) * rng.uniform(0.002, 0.014)
        self.shake = [(hand / (1 + f), 2 * math.pi * f, rng.uniform(0, 6, 3)) for f in rng.uniform(0.3, 3.5, 5)]
        self.roll = rng.normal(0, 0.02)
        if self.kind == "texture" and rng.random() < 0.4:
            self.turning = rng.normal(0, 0.15)
        else:
            self.turning = 0.0

    def _light(self, place: np.random.Generator, rng: np.random.Generator) -> None:
        """Brightness and contrast, their drift, how much grain."""
        mood = place.choice(["plain", "dark", "bright", "foggy"], p=[0.62, 0.18, 0.08, 0.12])
        self.gain, self.lift = {"plain": (1, 0), "dark": (0.32, 0.0), "bright": (1.1, 0.14), "foggy": (0.3, 0.38)}[mood]
        self.gamma = place.uniform(0.8, 1.25)
        self.drift = rng.uniform(0, 0.08) * (rng.random() < 0.5), rng.uniform(0.2, 1.5), rng.uniform(0, 6)
        self.grain = 0.0 if self.kind == "cartoon" else rng.choice([0.0, 1.5, 3.0, 6.0], p=[0.2, 0.4, 0.3, 0.1])

    # -- one frame ----------------------------------------------------------------------------------------------------

    def _view(self, t: float, shift: tuple[float, float]) -> tuple[float, float, float, float]:
        """Where the camera is, its zoom, how it is turned."""
        x = self.start[0] + self.pan * t + shift[0] + sum(a * math.sin(w * t + p[0]) for a, w, p in self.shake)
        y = self.start[1] + shift[1] + sum(a * math.sin(w * t + p[1]) for a, w, p in self.shake)
        y += self.tilt[0] * math.sin(self.tilt[1] * t + self.tilt[2])
        zoom = self.zoom * (1 + self.zooming[0] * (1 + math.sin(self.zooming[1] * t + self.zooming[2])))
        roll = self.roll + self.turning * t + sum(a * math.sin(w * t + p[2]) for a, w, p in self.shake)
        return x, y, zoom, roll

    def _seen(self, t: float, size: tuple[int, int], shift: tuple[float, float]) -> Array:
        view = self._view(t, shift)
        cv2 = opencv()
        image = cv2.cvtColor(_layer(self.layers[0], view, size), cv2.COLOR_RGBA2RGB)
        nearer = sorted((*self.layers[1:], *self.movers), key=lambda one: one.depth)
        for one in nearer:
            if isinstance(one, Layer):
                if self.kind == "water":  # ripples that run across one another
                    view = view[0] + 0.11 * t, view[1] + 0.03 * math.sin(t), *view[2:]
                image = over(image, _layer(one, view, size))
            else:
                seen = view[0] - self.start[0], *view[1:]
                _put(image, one, math.floor(t * 12) / 12 if self.kind == "cartoon" else t, seen)
        return image

    def _tones(self, t: float) -> Array:
        ramp = np.linspace(0, 1, 256) ** self.gamma
        gain = self.gain * (1 + self.drift[0] * math.sin(self.drift[1] * t + self.drift[2]))
        return to_bytes(ramp * gain + self.lift)

    def _with_grain(self, image: Array, t: float) -> Array:
        if not self.grain:
            return image
        h, w = image.shape[:2]
        if (h, w) not in self._grain:
            field = np.random.default_rng([13, self.seed]).normal(0, self.grain, (h + 64, w + 64))
            self._grain[h, w] = np.repeat(field.astype(np.float32).round().astype(np.int16)[..., None], 3, 2)
        y, x = np.random.default_rng([14, self.seed, round(t * 1e4)]).integers(0, 64, 2)
        return np.clip(image + self._grain[h, w][y : y + h, x : x + w], 0, 255).astype(np.uint8)


def over(image: Array, top: Array) -> Array:
    """(h, w, 3) under (h, w, 4)."""
    cv2 = opencv()
    rest = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(top, 3)), cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(image, rest, scale=1 / 255), cv2.cvtColor(top, cv2.COLOR_RGBA2RGB))


def _layer(layer: Layer, view: tuple[float, float, float, float], size: tuple[int, int]) -> Array:
    cv2, (h, w), (x, y, zoom, roll) = opencv(), size, view
    zoom = zoom ** (0.4 + 0.6 * layer.depth)
    level = _level(UNIT / (h * zoom), layer.texture)
    scale = UNIT / 2**level / (h * zoom)
    c, s = math.cos(roll) * scale, math.sin(roll) * scale
    centre = (x * layer.depth % 4) * UNIT / 2**level, (y * layer.depth + 1) * UNIT / 2**level
    matrix = np.array([[c, s, 0], [-s, c, 0]])
    matrix[:, 2] = np.array(centre) - matrix[:, :2] @ [(w - 1) / 2, (h - 1) / 2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(layer.texture[level], matrix, (w, h), flags=flags, borderMode=cv2.BORDER_WRAP)


def _level(scale: float, texture: list[Array]) -> int:
    """Which of a pyramid has about as many pixels as the frame."""
    return min(len(texture) - 1, max(0, round(math.log2(max(scale, 1e-6)))))


def _put(image: Array, one: Mover, t: float, view: tuple[float, float, float, float]) -> None:
    """A thing into a frame."""
    x, y, zoom, roll = view
    beyond = 1.15 + one.radius  # out of sight there, it comes in again at the other side
    sway = one.sway[0] * math.sin(one.pace * t + one.phase), one.sway[1] * math.sin(1.3 * one.pace * t + one.phase)
    at = one.place[0] + one.speed[0] * t - x * one.depth
    across = (at + beyond) % (2 * beyond) - beyond + sway[0]
    down = one.place[1] + sway[1] - y * one.depth
    flat = one.flat
    if one.talks:
        flat *= 0.25 + 0.75 * abs(math.sin(9 * t) * math.sin(2.3 * t + one.phase))
    paste(
        image, one.texture, (across, down), one.radius, (zoom, roll), one.spin * t + one.phase * (one.spin != 0), flat
    )


def paste(
    image: Array,
    texture: list[Array],
    place: tuple[float, float],
    radius: float,
    view: tuple[float, float] = (1, 0),
    angle: float = 0,
    flat: float = 1,
) -> None:
    """A thing over a frame, which changes. place: from the centre, in heights of the frame. view: zoom and roll."""
    cv2, (h, w), (zoom, roll) = opencv(), image.shape[:2], view
    c, s = math.cos(roll), math.sin(roll)
    x, y = (place[0] * c - place[1] * s) * zoom * h + w / 2, (place[0] * s + place[1] * c) * zoom * h + h / 2
    reach = radius * zoom * h * max(1.0, flat) * 1.5
    left, right = max(0, math.floor(x - reach)), min(w, math.ceil(x + reach))
    top, bottom = max(0, math.floor(y - reach)), min(h, math.ceil(y + reach))
    if right - left < 2 or bottom - top < 2:
        return
    level = _level(texture[0].shape[0] / (2 * radius * zoom * h), texture)
    side = texture[level].shape[0]
    across, down = 2 * radius * zoom * h / side, 2 * radius * zoom * h * max(flat, 0.02) / side
    c, s = math.cos(angle + roll), math.sin(angle + roll)
    matrix = np.array([[c * across, -s * down, 0], [s * across, c * down, 0]])
    matrix[:, 2] = np.array([x - left, y - top]) - matrix[:, :2] @ [(side - 1) / 2, (side - 1) / 2]
    drawn = cv2.warpAffine(texture[level], matrix, (right - left, bottom - top))
    image[top:bottom, left:right] = over(np.ascontiguousarray(image[top:bottom, left:right]), drawn)
