"""What changes along a clip's motion, and so shimmers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """frames (n, c, h, w) looked up at p + flow(p): flow (n, 2, h, w) in pixels, (dx, dy), y down."""
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device), torch.arange(width, device=flow.device), indexing="ij"
    )
    to = torch.stack([(x + flow[:, 0] + 0.5) / width, (y + flow[:, 1] + 0.5) / height], dim=-1) * 2 - 1
    return F.grid_sample(frames, to.to(frames), mode="bilinear", padding_mode="border", align_corners=False)


def changes(clips: Tensor, flow: Tensor, valid: Tensor) -> Tensor:
    """How much a clip changes along its motion: the mean |x_t - warp(x_t+1)| where the flow is valid, by clip: (b,).

    clips: (b, t, c, h, w); flow (b, t-1, 2, h, w) forward, in pixels; valid (b, t-1, h, w) in [0, 1].
    """
    later = warp(clips[:, 1:].flatten(0, 1), flow.flatten(0, 1)).unflatten(0, flow.shape[:2])
    change = (clips[:, :-1] - later).abs().mean(dim=2) * valid
    return change.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp(min=1.0)
