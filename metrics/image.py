"""Pictures beside the truth."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (b,) in dB of images or clips in [0, 1], at most 100."""
    error = (a - b).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=1e-10))
