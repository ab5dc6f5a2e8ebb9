"""What stands still while the rest of a clip moves: a logo, a tiled watermark. Without weights.

An edge of the picture moves with what it is of; the edges of what was laid over it stay on the same pixels. So an
overlay is where edges are in nearly every frame that is looked at, and in what is left when what moves is taken out:
the median of the frames. A camera and a scene that stand still hide it; then it cannot be told (None).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .pictures import grey

SHAPE = 360  # pixels, the shorter side that edges are looked for at
OFTEN = 0.9  # of frames that an edge is in
FEWEST = 4  # frames that tell anything
STEEP = 22.0  # steps of luma that make an edge
STILL = 0.35  # of all edges: more that stay, and the scene itself stands still
JOIN = 9  # pixels between edges of one overlay
SMALLEST = 0.0004  # of the picture


def overlay(pictures: Sequence[np.ndarray]) -> float | None:
    """The part of the picture under boxes around it, 0 to 1. None: it cannot be told."""
    boxes = overlay_boxes(pictures)
    if boxes is None:
        return None
    return round(sum(w * h for _, _, w, h in boxes), 5)


def overlay_boxes(pictures: Sequence[np.ndarray]) -> list[tuple[float, float, float, float]] | None:
    """(left, top, width, height), parts of the picture."""
    if len(pictures) < FEWEST:
        return None
    frames = np.stack([_sized(p) for p in pictures])
    edges = np.stack([_edges(f) for f in frames])
    still = edges.mean(0) >= OFTEN
    middle = _edges(np.median(frames, axis=0).astype(np.uint8))
    found = still & middle
    usual = np.median(edges.mean((1, 2)))
    if found.mean() > STILL * max(usual, 1e-6) and _is_still(frames, found):
        return None
    joined = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((JOIN, JOIN), np.uint8))
    height, width = found.shape
    boxes = []
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined)
    for left, top, w, h, _ in stats[1:count]:
        if w * h >= SMALLEST * width * height and found[top : top + h, left : left + w].sum() >= 12:
            boxes.append((left / width, top / height, w / width, h / height))
    return boxes


def _is_still(frames: np.ndarray, found: np.ndarray) -> bool:
    """Whether hardly anything changes outside of what was found."""
    outside = cv2.dilate(found.astype(np.uint8), np.ones((JOIN, JOIN), np.uint8)) == 0
    return bool(not outside.any() or frames.std(axis=0)[outside].mean() < 6.0)


def _sized(picture: np.ndarray) -> np.ndarray:
    image = grey(picture)
    scale = min(1.0, SHAPE / min(image.shape))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _edges(image: np.ndarray) -> np.ndarray:
    across, down = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
    return np.hypot(across, down) > STEEP * 4
