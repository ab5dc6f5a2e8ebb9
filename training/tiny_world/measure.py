"""Measures the motion of a produced tiny-world clip from its pixels alone.

The specification gives what a viewer would know: the true background and the caption. The shape is found as
whatever differs from the background; its path is the centroid of that difference. Displacements are compared
with the true clip's, measured by the same function, so a shape that is partly outside the frame is judged
fairly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...metrics.image import psnr
from .render import ClipSpec, background, coverage, render
from .world import DIRECTIONS

# Colour distance from the background, after a 3x3 mean: below FAINT is noise, above CLEAR is the shape.
# A shape's colour is at least 0.3 from any background; noise of sigma 0.03 is at most about 0.06.
FAINT, CLEAR = 0.15, 0.30
VISIBLE = 0.25  # share of the true area below which a shape counts as gone
MOVES = 0.02  # displacement in frame sides below which a shape counts as not moving
LONG_ENOUGH = 0.4  # share of the true displacement below which a direction does not count


@dataclass(frozen=True)
class Measures:
    """Per clip, all of shape (b,)."""

    directional: Tensor  # bool, whether the caption asks for one of the 8 directions
    direction: Tensor  # long, nearest of the 8 directions (an index into DIRECTIONS), -1 where none
    direction_right: Tensor  # bool, the asked direction, far enough, the shape still visible at the end
    visible: Tensor  # bool, whether the shape is visible in the last frame
    speed_ratio: Tensor  # displacement over the true one; 0 for a lost shape, nan unless directional
    first_frame_psnr: Tensor  # dB against the given first frame
    video_psnr: Tensor  # dB against the true clip
    flicker: Tensor  # mean change of the background between neighbouring frames, in 1/255

    def summary(self) -> dict[str, float]:
        """Means over the clips; directions and speeds over the directional clips only."""
        return {
            "direction_accuracy": self.direction_right[self.directional].float().mean().item(),
            "speed_ratio": self.speed_ratio[self.directional].mean().item(),
            "visible": self.visible.float().mean().item(),
            "first_frame_psnr": self.first_frame_psnr.mean().item(),
            "video_psnr": self.video_psnr.mean().item(),
            "flicker": self.flicker.mean().item(),
        }


def shape_mask(clip: Tensor, ground: Tensor) -> Tensor:
    """Soft mask (b, t, h, w) of where clip (b, t, 3, h, w) differs from the background ground (b, 3, h, w)."""
    difference = F.avg_pool2d((clip - ground[:, None]).flatten(0, 1), 3, stride=1, padding=1)
    distance = difference.norm(dim=1).unflatten(0, clip.shape[:2])
    return ((distance - FAINT) / (CLEAR - FAINT)).clamp(0, 1)


def centroids(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (b, t, 2) as (x, y), y down, in frame sides, nan where the mask is empty; area (b, t)."""
    size = mask.shape[-1]
    at = (torch.arange(size, device=mask.device, dtype=mask.dtype) + 0.5) / size
    area = mask.sum((-1, -2))
    x, y = (mask.sum(-2) * at).sum(-1), (mask.sum(-1) * at).sum(-1)
    return torch.stack([x, y], dim=-1) / area[..., None], area / size**2


def measure(clip: Tensor, specs: ClipSpec, first_frame: Tensor | None = None) -> Measures:
    """Measure clips (b, t, 3, n, n) in [0, 1] produced for the given specifications.

    first_frame (b, 3, n, n) is the frame the clip had to start from; by default the true clip's first.
    """
    clip = clip.float().clamp(0, 1)
    frames, size = clip.shape[1], clip.shape[-1]
    ground, truth = background(specs, size), render(specs, frames, size)
    first_frame = truth[:, 0] if first_frame is None else first_frame

    path, area = centroids(shape_mask(clip, ground))
    true_path, true_area = centroids(shape_mask(truth, ground))
    visible = area[:, -1] > VISIBLE * true_area[:, -1]
    seen = visible & (area[:, 0] > VISIBLE * true_area[:, 0])
    moved = torch.where(seen[:, None], path[:, -1] - path[:, 0], 0.0)
    length = moved.norm(dim=-1)
    true_length = (true_path[:, -1] - true_path[:, 0]).norm(dim=-1)

    eighth = 2 * math.pi / len(DIRECTIONS)
    nearest = torch.round(torch.atan2(-moved[:, 1], moved[:, 0]) / eighth).long() % len(DIRECTIONS)
    direction = torch.where(length > MOVES, nearest, -1)
    directional = specs.motion < len(DIRECTIONS)
    right = directional & (direction == specs.motion) & (length > LONG_ENOUGH * true_length)

    # The background proper: pixels that the shape of the true clip never comes near.
    reach = F.max_pool2d(coverage(specs, frames, size).amax(1, keepdim=True), 5, stride=1, padding=2)
    still = (reach == 0).float()
    change = (clip[:, 1:] - clip[:, :-1]).abs().mean((1, 2))
    flicker = 255 * (change * still[:, 0]).sum((-1, -2)) / still[:, 0].sum((-1, -2)).clamp(min=1)
    return Measures(
        directional=directional,
        direction=direction,
        direction_right=right,
        visible=visible,
        speed_ratio=torch.where(directional, length / true_length, math.nan),
        first_frame_psnr=psnr(clip[:, 0], first_frame),
        video_psnr=psnr(clip, truth),
        flicker=flicker,
    )
