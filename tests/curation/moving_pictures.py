"""A painted wall along which a camera goes, words and marks to lay over it, bars around it."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = (270, 480)


def wall(seed=0, count=7, speed=23.0, size=SIZE):
    """(count, h, w, 3) bytes. speed: pixels from frame to frame; 0: the camera stands still."""
    rng = np.random.default_rng(seed)
    h, w = size
    length = w + round(abs(speed) * count) + 1
    image = np.zeros((h, length, 3), np.float32)
    for cells in (5, 20, 60):
        paint = rng.uniform(0, 1, (cells, cells * length // h, 3)) + rng.uniform(0, 1, (cells, cells * length // h, 1))
        image += cv2.resize(paint.astype(np.float32), (length, h), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image / 6 * 220 + 15, 0, 255).astype(np.uint8)
    starts = [round(abs(speed) * k) for k in range(count)]
    return np.stack([image[:, start : start + w] for start in starts])


def words(frames, text, at, high=0.06, first=0, last=None, strength=1.0):
    """Bright and outlined. at: its middle, parts of the frame. high: of its letters, of the frame's height."""
    frames = frames.copy()
    h, w = frames.shape[1:3]
    scale = high * h / cv2.getTextSize("H", cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)[0][1]
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 1)
    place = round(at[0] * w - wide / 2), round(at[1] * h + tall / 2)
    for frame in frames[first:last]:
        drawn = frame.copy()
        thick = max(1, round(scale * 1.5))
        for colour, width in (((0, 0, 0), thick + 3), ((245, 245, 245), thick)):
            cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_DUPLEX, scale, colour, width, cv2.LINE_AA)
        frame[:] = (strength * drawn.astype(np.float32) + (1 - strength) * frame).astype(np.uint8)
    return frames


def mark(frames, at=(0.9, 0.12), strength=1.0):
    """A ring around a dot. at: its middle, parts of the frame."""
    frames = frames.copy()
    h, w = frames.shape[1:3]
    middle = round(at[0] * w), round(at[1] * h)
    for frame in frames:
        drawn = frame.copy()
        cv2.circle(drawn, middle, round(0.055 * h), (250, 250, 250), max(2, h // 60), cv2.LINE_AA)
        cv2.rectangle(drawn, (middle[0] - h // 50, middle[1] - h // 50), (middle[0] + h // 50, middle[1] + h // 50),
                      (240, 200, 60), -1)  # fmt: skip
        frame[:] = (strength * drawn.astype(np.float32) + (1 - strength) * frame).astype(np.uint8)
    return frames


def barred(frames, top=0, bottom=0, left=0, right=0, black=0):
    """The same, smaller, between black bars of so many pixels."""
    n, h, w = frames.shape[:3]
    found = np.full_like(frames, black)
    size = w - left - right, h - top - bottom
    for k in range(n):
        found[k, top : h - bottom, left : w - right] = cv2.resize(frames[k], size, interpolation=cv2.INTER_AREA)
    return found
