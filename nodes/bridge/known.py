"""Frames that are there already: a noise mask that is 0 all over a clip's first frames.

The host keeps what a mask covers and shows it to the network as noisy as the rest. A network that was trained to be
given its first frames (`UNetConfig.known_frames`) gets them without noise, at timestep 0, as the host's own video
models with a timestep a token do.
"""

from __future__ import annotations

from torch import Tensor


def is_known(mask: Tensor, most: int) -> Tensor:
    """(t,) of a noise mask (t, c, h, w): whether it covers a frame and all before it wholly, on the mask's device.

    All False where it covers more than `most` frames, or every one.
    """
    covered = (mask.flatten(1).amax(1) == 0).long().cumprod(0)
    count = covered.sum()
    return covered.bool() & (count <= most) & (count < len(mask))


def known_rows(known: Tensor) -> Tensor:
    """(t, 1, 1, 1): 0 for a known frame, 1 for the others."""
    return 1.0 - known.float().reshape(-1, 1, 1, 1)
