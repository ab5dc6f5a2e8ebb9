"""What a clip is like, in numbers: the columns of clips.parquet that are measured from its frames.

All are of the picture between black bars (pictures.py), of some frames a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .pictures import Box, Look, grey, within

SIDE = 640  # pixels, of the longer side, that sharpness is measured at
HASH = 32  # pixels of a side that is hashed, of whose cosines the lowest 8 x 8 are taken
FLAT = 0.01  # deviation of luma, of 1, below which a frame has no hash that tells it from others


def motion(looks: Sequence[Look]) -> float | None:
    """Optical flow (DIS), parts of the longer side a second, mean over pixels and frames. None: of fewer than a pair.

    Between frames some tenth of a second apart, since neighbours may be one and the same frame twice.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    found = []
    for look in looks:
        if look.pair is None:
            continue
        moved = flow.calc(look.small, look.pair.small, None)  # pyright: ignore[reportArgumentType, reportCallIssue]  # None: none yet
        found.append(float(np.hypot(moved[..., 0], moved[..., 1]).mean()) / max(look.small.shape) / look.pair.seconds)
    return round(float(np.mean(found)), 5) if found else None


def sharpness(pictures: Sequence[np.ndarray]) -> float:
    """The variance of the Laplacian of luma (0 to 255) at 640 pixels, median of frames. Higher is sharper."""
    return round(float(np.median([cv2.Laplacian(grey(_sized(p)), cv2.CV_32F).var() for p in pictures])), 2)


def _sized(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture  # nothing is sharper for being enlarged
    size = max(8, round(picture.shape[1] * scale)), max(8, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def brightness(pictures: Sequence[np.ndarray]) -> float:
    """Mean luma, 0 to 1."""
    return round(float(np.mean([grey(p).mean() for p in pictures])) / 255, 4)


def contrast(pictures: Sequence[np.ndarray]) -> float:
    """Deviation of luma, of 1, median of frames."""
    return round(float(np.median([grey(p).std() for p in pictures])) / 255, 4)


def hashes(looks: Sequence[Look], box: Box) -> tuple[str, ...]:
    """Of the frames at a quarter, a half and three quarters of a clip, then of their mirror images: the signs of the 63
    lowest cosines of luma but for the mean, 64 bit, hexadecimal. Empty: there is nothing to tell them by."""
    picks = [looks[min(len(looks) - 1, round((len(looks) - 1) * part))] for part in (0.25, 0.5, 0.75)]
    pictures = [grey(within(look, box)) for look in picks]
    if min(float(p.std()) for p in pictures) < FLAT * 255:
        return ()
    return tuple(_hash(p) for p in pictures) + tuple(_hash(np.ascontiguousarray(p[:, ::-1])) for p in pictures)


def _hash(picture: np.ndarray) -> str:
    small = cv2.resize(picture, (HASH, HASH), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:8, :8].ravel()[1:]
    bits = np.concatenate([[False], lowest > np.median(lowest)])
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"
