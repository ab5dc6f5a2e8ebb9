"""What stands still while the rest of a clip moves: a logo, a tiled watermark. Without weights.

An edge of the picture moves with what it is of; the edges of what was laid over it stay on the same pixels. So an
overlay is where slopes of luma point the same way in nearly every frame that is looked at, while those around it do
not. A camera and a scene that stand still hide it; then it cannot be told (None).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .pictures import grey
from .still import Rectangle

SHAPE = 360  # pixels, the shorter side that edges are looked for at
FEWEST, MOST = 4, 12  # frames that tell anything; that are looked at
OFTEN = 0.8  # of frames that an edge is in
STEEP = 36.0  # of a Sobel, mean over frames
ENOUGH = 40.0
CHANCE = 0.3
SURE = 0.75
FAINT = 0.2
HALF = 0.4  # of the mean slope that one of a frame has to have
JOIN = 0.025  # of the shorter side: between edges of one overlay
SMALL = 0.03  # of the shorter side: an overlay's least extent
EDGES = 24  # pixels of them, at least
BOTH = 0.1  # of its edges' energy is across, and down, at least: a horizon stays in a pan
STILL = 0.2  # how alike the edges around it are at different times, where they stay too
FLAT = 0.02  # of what is around it: fewer edges tell nothing
CORNER = 0.3  # of a side: from where on, and to where, is a corner


@dataclass(frozen=True)
class _Place:
    box: Rectangle
    energy: float
    verdict: bool | None  # laid over the picture, or not; none: it cannot be told


def overlay(pictures: Sequence[np.ndarray]) -> float | None:
    """The part of the picture under boxes around it, 0 to 1. None: it cannot be told."""
    boxes = overlay_boxes(pictures)
    if boxes is None:
        return None
    return round(min(1.0, sum(w * h for _, _, w, h in boxes)), 5)


def overlay_boxes(pictures: Sequence[np.ndarray]) -> list[tuple[float, float, float, float]] | None:
    """(left, top, width, height), parts of the picture."""
    if len(pictures) < FEWEST:
        return None
    picks = np.unique(np.linspace(0, len(pictures) - 1, MOST).round().astype(int))
    slopes = _slopes([_sized(pictures[k]) for k in picks])
    places = _places(slopes)
    laid, doubt = (sum(p.energy for p in places if p.verdict is verdict) for verdict in (True, None))
    if doubt > laid:
        return None
    height, width = slopes.shape[2:]
    return [
        (p.box.left / width, p.box.top / height, p.box.width / width, p.box.height / height)
        for p in places
        if p.verdict
    ]


def _places(slopes: np.ndarray) -> list[_Place]:
    """slopes: (n, 2, h, w)."""
    still, mean = _still(slopes)
    height, width = still.shape
    whole = Rectangle(0, 0, width, height)
    gap = max(3, round(JOIN * min(height, width)))
    joined = cv2.morphologyEx(
        still, cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    least = SMALL * min(height, width)
    moving = cv2.dilate(joined, np.ones((5, 5), np.uint8)) == 0
    found = []
    for number, (left, top, w, h, _) in enumerate(stats[1:count].tolist(), 1):
        box = Rectangle(left, top, left + w, top + h)
        mine = (labels[box.rows, box.columns] == number) & (still[box.rows, box.columns] > 0)
        if mine.sum() < EDGES or min(w, h) < least:
            continue
        across, down = (mean[:, box.rows, box.columns] ** 2 * mine).sum((1, 2))
        if min(across, down) < BOTH * (across + down):
            continue
        around = box.grown(2 * gap, whole)
        found.append(_Place(box, float(across + down), _verdict(slopes, moving, box, around, whole)))
    return found


def _verdict(
    slopes: np.ndarray, moving: np.ndarray, box: Rectangle, around: Rectangle, whole: Rectangle
) -> bool | None:
    if box.left <= 1 or box.top <= 1 or box.right >= whole.right - 1 or box.bottom >= whole.bottom - 1:
        return None
    alike = _alike(slopes, moving, around)
    if alike is None:
        if not _in_corner(box, whole):
            return None
        alike = _alike(slopes, moving, whole)
    return True if alike is not None and alike < STILL else None


def _in_corner(box: Rectangle, whole: Rectangle) -> bool:
    across = box.right <= CORNER * whole.width or box.left >= (1 - CORNER) * whole.width
    return across and (box.bottom <= CORNER * whole.height or box.top >= (1 - CORNER) * whole.height)


def _alike(slopes: np.ndarray, moving: np.ndarray, place: Rectangle) -> float | None:
    """How alike edges are at different times; None: there are hardly any."""
    part = slopes[:, :, place.rows, place.columns] * moving[place.rows, place.columns]
    energy = (part.astype(np.float32) ** 2).sum(1)
    edges = (energy > STEEP**2).mean((1, 2))
    if edges.mean() < FLAT:
        return None
    away = len(part) // 2
    found = []
    for k in range(len(part) - away):
        each = float(energy[k].sum()) * float(energy[k + away].sum())
        found.append(float((part[k] * part[k + away]).sum()) / each**0.5 if each > 0 else 0.0)
    return float(np.mean(found))


def _still(slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bytes, where slopes stay; (2, h, w) their mean."""
    total, energy, mean = np.zeros(slopes.shape[1:], np.float32), 0.0, slopes.mean(0)
    for slope in slopes:  # none counts for much more than others, so that one edge that passes does not stay
        steep = np.hypot(*slope)
        evened = slope / (steep + ENOUGH)
        total += evened
        energy = energy + (evened * evened).sum(0)
    strength, energy = cv2.blur((total * total).sum(0), (5, 5)), cv2.blur(energy, (5, 5))
    still = (strength >= (1 + CHANCE * (len(slopes) - 1)) * energy) & (strength >= (FAINT * len(slopes)) ** 2)
    return still.astype(np.uint8), mean


def _slopes(lumas: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2, h, w): how steep, at twice the angle, so that an edge from light to dark is one from dark to light."""
    found = []
    for luma in lumas:
        across, down = cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)
        steep = np.hypot(across, down) + 1e-3
        found.append([(across * across - down * down) / steep, 2 * across * down / steep])
    return np.array(found)


def _sized(picture: np.ndarray) -> np.ndarray:
    image = grey(picture)
    scale = min(1.0, SHAPE / min(image.shape))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
