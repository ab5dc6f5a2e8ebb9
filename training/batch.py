"""What a training step sees, whatever the data came from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """b clips of t frames. Pixels are in [0, 1]; flow is forward, in pixels per frame, the last frame has none."""

    frames: Tensor  # (b, t, 3, h, w)
    text: list[str]
    motion: list[str]
    flow: Tensor | None = None  # (b, t-1, 2, h, w)
    flow_valid: Tensor | None = None  # (b, t-1, h, w)
