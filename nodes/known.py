"""Frames that are there already: a noise mask that is 0 all over a clip's first frames.

The host keeps what a mask covers and shows it to the network as noisy as the rest. A network that was trained to be
given its first frames (`UNetConfig.known_frames`) gets them without noise, at timestep 0, as the host's own video
models with a timestep a token do.
"""

from __future__ import annotations

import torch
from torch import Tensor


def count_known(mask: Tensor | None, most: int) -> int:
    """How many of a clip's first frames a mask (t, c, h, w) covers wholly; 0 where that is more than `most`."""
    if mask is None or not most:
        return 0
    covered = (mask.flatten(1).amax(1) == 0).tolist()
    count = covered.index(False) if False in covered else 0
    return count if count <= most else 0


def known_rows(frames: int, count: int) -> Tensor:
    """(t, 1, 1, 1): 0 for a known frame, 1 for the others."""
    rows = torch.ones(frames, 1, 1, 1)
    rows[:count] = 0
    return rows
