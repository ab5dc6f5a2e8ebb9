"""What a step sees of its clips: squares cut from their frames, and how what is in them moves."""

from __future__ import annotations

import torch
from torch import Tensor

from ...metrics.flow import clip_flow
from ..batch import Batch
from ..random import generator


def cut(clip: Tensor, side: int, *key: object) -> Tensor:
    """A square of (t, 3, h, w), at a place drawn by the key."""
    own = generator(*key, "cut")
    top = int(torch.randint(clip.shape[-2] - side + 1, (), generator=own))
    left = int(torch.randint(clip.shape[-1] - side + 1, (), generator=own))
    return clip[..., top : top + side, left : left + side].clone()  # lets go of the rest


def with_flow(clips: Tensor, wanted: bool) -> Batch:
    """clips (b, t, 3, h, w) as a batch; with their optical flow, in pixels, if wanted and if they move at all."""
    batch = Batch([""] * len(clips), None, clips)
    if wanted and clips.shape[1] > 1:
        pixels = (clips.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
        flows, valid = zip(*(clip_flow(clip) for clip in pixels), strict=True)
        batch.flow, batch.flow_weight = torch.stack(flows), torch.stack(valid).float()
    return batch
