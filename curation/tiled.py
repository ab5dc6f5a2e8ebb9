"""Whether one and the same thing is laid over a clip again and again, all over it: a tiled watermark.

What comes again at even steps shows in the correlation of a picture with itself, moved by those steps. Its spectrum is
evened before, so that long lines and textures, which are like themselves a little further on, do not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .marks import Slopes

SIDE = 180  # pixels, the shorter side
LEAST = 0.14  # of the shorter side: from one to the next
SHARED = 0.25  # of the picture, by itself moved by a step, at least
PEAKS, PAIRS = 20, 12  # that are looked at: where it may come again; of steps
FAR = 4  # steps each way, as far as it is looked for
AGAIN = 2.0  # deviations: there it comes again
ROOMY = 0.05  # of the shorter side squared: what each of them has for itself
Step = tuple[int, int]  # down, across


def tiles(there: Slopes) -> float:
    """How far two steps, and the one that leads from one to the other, rise above chance, in deviations; less where it
    does not come again at most places that both lead to, and where they are short: windows of a house come again, too.
    """
    field = there.halves * np.minimum(1, there.alike / 0.5)
    scale = min(1.0, SIDE / there.short)
    size = max(1, round(there.width * scale)), max(1, round(there.height * scale))
    halves = [[cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in half] for half in field]
    sure = _again(halves)
    near = cv2.dilate(sure, np.ones((3, 3), np.uint8))
    found = 0.0
    for rise, first, second in _pairs(sure):
        between = abs(first[0] * second[1] - first[1] * second[0]) / min(size) ** 2
        if rise * min(1.0, between / ROOMY) > found:
            found = max(found, rise * min(1.0, between / ROOMY) * _share(sure, near, first, second))
    return found


def _again(halves: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """(h, 2 w) by step down from 0 on, and across from -w on: deviations above chance. halves: (2, 2, h, w); one is
    compared with the other, as what moves comes again in each, but elsewhere."""
    h, w = halves[0][0].shape
    size = cv2.getOptimalDFTSize(2 * h), cv2.getOptimalDFTSize(2 * w)
    one, other = (np.stack([np.fft.rfft2(part, size) for part in half]) for half in halves)
    power = (one * other.conj()).real.sum(0).astype(np.float32)
    energy = np.abs(one * other).sum(0).astype(np.float32)
    wide = 2 * round(size[1] / (LEAST * min(h, w)) / 2) + 1, 2 * round(size[0] / (LEAST * min(h, w)) / 2) + 1
    around = cv2.blur(energy, wide, borderType=cv2.BORDER_REFLECT)
    alike = np.fft.irfft2(power / (around + 1e-3 * float(energy.mean()) + 1e-9), size)
    alike = np.concatenate([alike[:h, -w:], alike[:h, :w]], 1).astype(np.float32)
    alike = cv2.GaussianBlur(alike, (0, 0), 1.0)
    y, x = np.mgrid[:h, -w:w]
    shared = (1 - y / h) * (1 - abs(x) / w)
    alike /= np.sqrt(np.maximum(shared, SHARED)).astype(np.float32)
    allowed = (np.hypot(x, y) >= LEAST * min(h, w)) & (shared >= SHARED) & ~((y == 0) & (x < 0))
    spread = 1.48 * float(np.median(np.abs(alike[allowed]))) + 1e-9
    return np.where(allowed, alike / spread, 0)


def _pairs(sure: np.ndarray) -> list[tuple[float, Step, Step]]:
    """Two steps each that are not along one line, and how far they rise; the highest first."""
    w = sure.shape[1] // 2
    highest = cv2.dilate(sure, np.ones((5, 5), np.uint8))  # a sum of two steps may be beside its own peak
    peaks = np.flatnonzero((sure >= highest) & (sure > 0))
    peaks = peaks[np.argsort(-sure.flat[peaks], kind="stable")][:PEAKS]
    steps = [(int(k) // (2 * w), int(k) % (2 * w) - w) for k in peaks]
    found = []
    for k, a in enumerate(steps):
        for b in steps[:k]:
            if abs(a[0] * b[1] - a[1] * b[0]) < 0.3 * math.hypot(*a) * math.hypot(*b):
                continue
            between = max(_at(highest, (a[0] - b[0], a[1] - b[1])), _at(highest, (a[0] + b[0], a[1] + b[1])))
            rise = min(float(sure[a[0], a[1] + w]), float(sure[b[0], b[1] + w]), between)
            found.append((rise, a, b))
    return sorted(found, reverse=True)[:PAIRS]


def _share(sure: np.ndarray, near: np.ndarray, first: Step, second: Step) -> float:
    """Of the places that both steps lead to: at how many it comes again, 0 to 1. near: the most beside each."""
    h, w = sure.shape[0], sure.shape[1] // 2
    i, j = np.mgrid[-FAR : FAR + 1, -FAR : FAR + 1]
    down, across = i * first[0] + j * second[0], i * first[1] + j * second[1]
    inside = ((down > 0) | ((down == 0) & (across > 0))) & (down < h) & (abs(across) < w)
    down, across = down[inside], across[inside] + w
    looked_at = sure[down, across] != 0
    again = near[down, across][looked_at] > AGAIN
    return float(again.mean()) if again.size else 0.0


def _at(highest: np.ndarray, step: Step) -> float:
    h, w = highest.shape[0], highest.shape[1] // 2
    down, across = step if step[0] >= 0 else (-step[0], -step[1])
    return float(highest[down, across + w]) if down < h and abs(across) < w else 0.0
