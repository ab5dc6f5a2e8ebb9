"""What JPEG takes from a picture, as libjpeg does it, in torch: everything but the entropy coding, which loses nothing.

JFIF's YCbCr, chroma at half size (4:2:0), the 8x8 DCT, the tables of ITU-T T.81 annex K scaled by quality, rounding;
then back, with chroma interpolated linearly ("fancy upsampling", what libjpeg does unless told otherwise).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# fmt: off
LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
)
# fmt: on
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(clip: Tensor, quality: int) -> Tensor:
    """clip (t, 3, h, w) in [0, 1], read as 8 bit, each frame encoded and decoded; quality: 1 to 100."""
    height, width = clip.shape[-2:]
    levels = F.pad(clip.clamp(0, 1) * 255, (0, -width % 16, 0, -height % 16), mode="replicate").round()
    # Blue and red differences are around 0 here and not around 128, as the DCT wants all three.
    ycc = _mixed(levels, TO_YCC).round()
    luma = _coded(ycc[:, :1] - 128, steps(LUMA, quality))
    chroma = _coded(F.avg_pool2d(ycc[:, 1:], 2).round(), steps(CHROMA, quality))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    rgb = _mixed(torch.cat([luma + 128, chroma], dim=1), TO_RGB)
    return rgb.round().clamp(0, 255)[..., :height, :width] / 255


def steps(base: tuple[int, ...], quality: int) -> Tensor:
    """The steps that coefficients are rounded to, (64,), by libjpeg's rule (jcparam.c)."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255)


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """(t, c, h, w) in [-128, 127], sides multiples of 8, to coefficients, to the table's multiples, and back."""
    height, basis = plane.shape[-2] // 8, _basis().to(plane)
    blocks = rearrange(plane, "t c (i y) (j x) -> t c (i j) (y x)", y=8, x=8)
    table = table.to(plane)
    coefficients = (blocks @ basis.T / table).round() * table
    blocks = (coefficients @ basis).round().clamp(-128, 127)
    return rearrange(blocks, "t c (i j) (y x) -> t c (i y) (j x)", i=height, y=8)


def _basis() -> Tensor:
    """The orthonormal 8x8 DCT as one matrix: (64 coefficients, 64 pixels)."""
    at = torch.arange(8, dtype=torch.float64)
    rows = torch.cos(math.pi / 8 * (at + 0.5) * at[:, None]) / 2
    rows[0] /= math.sqrt(2)
    return torch.kron(rows, rows)


def _mixed(clip: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("dc, t c h w -> t d h w", torch.tensor(matrix).to(clip), clip)
