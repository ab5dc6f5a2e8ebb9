"""The sizes that upscalers make, and the one that is wanted."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError

SCALES = (2, 3, 4, 8)  # that upscalers come in


def check_target(scale: int, h: int, w: int, height: int, width: int) -> None:
    """Raises ConfigError where height x width is more than a network makes of h x w."""
    if height <= scale * h and width <= scale * w:
        return
    factor = math.ceil(round(100 * max(height / h, width / w), 6)) / 100
    larger = next((made for made in SCALES if made >= factor), None)
    remedy = "choose a smaller size" if larger is None else f"choose a x{larger} model or a smaller size"
    raise ConfigError(
        f"{w}x{h} times {scale} is {scale * w}x{scale * h}; {width}x{height} asks for x{factor:g}: {remedy}."
    )


def resize_cover_crop(frames: Tensor, height: int, width: int) -> Tensor:
    """(k, 3, h, w) in [0, 1] -> (k, 3, height, width): scaled to cover that size, cropped at the centre."""
    h, w = frames.shape[-2:]
    if (h, w) == (height, width):
        return frames
    factor = max(height / h, width / w)
    size = max(height, round(h * factor)), max(width, round(w * factor))
    if size != (h, w):
        frames = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def bicubic(frames: Tensor, scale: int) -> Tensor:
    """(t, 3, h, w) -> (t, 3, s*h, s*w) in [0, 1], Keys' cubic (a = -0.75, as torch has it)."""
    return F.interpolate(frames, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)
