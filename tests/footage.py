"""Short made-up films for tests: scenes of soft colours that a camera pans over, cut hard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def scene(seed: int, frames: int, width: int = 192, height: int = 108) -> Iterator[np.ndarray]:
    """(height, width, 3) bytes, `frames` times."""
    random = np.random.default_rng(seed)
    far = cv2.resize(random.integers(0, 255, (12, 40, 3), np.uint8), (width * 3, height), interpolation=cv2.INTER_CUBIC)
    near = random.integers(0, 255, (height // 3, width * 3, 3), np.uint8)
    near = cv2.GaussianBlur(near, (0, 0), 2)
    speed = int(random.integers(1, 3))
    for k in range(frames):
        picture = far[:, k * speed : k * speed + width].copy()
        picture[height - len(near) :] = near[:, 3 * k * speed % width : 3 * k * speed % width + width]
        yield picture


def film(path: Path, seeds: Sequence[int], frames: int = 60, *, keys: int = 250, fps: int = 24) -> Path:
    """A scene for each seed, of so many frames, one after the other. keys: frames from one key frame to the next."""
    width, height = 192, 108
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "preset": "ultrafast", "threads": "1", "g": str(keys)}
        for seed in seeds:
            for picture in scene(seed, frames, width, height):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path
