"""Pixel-aware cross-attention to the first frame's latent (FD Eq. 3, from PASD).

    Z = PACA(to_q(x), to_kv(y)),  y: the VAE latent of the first frame

How four latent channels become keys is not stated: a small pyramid brings the latent to each level's width and
size, one light cross-attention per spatial transformer of the up path reads it, zero at its output. All frames
read the same keys and values, so frames are folded into the query length.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Factory, MultiHeadAttention, sine_positions_2d, zero


class LatentPyramid(nn.Module):
    """First-frame latent (b, z, h, w) -> one (b, h_l*w_l, c_l) per level, sizes halved as in the UNet."""

    def __init__(self, make: Factory, latent_channels: int, widths: list[int], groups: int) -> None:
        super().__init__()
        self.conv_in = make.conv(latent_channels, widths[0])
        self.levels = nn.ModuleList(
            nn.Sequential(make.group_norm(groups, width), nn.SiLU(), make.conv(width, after, stride=2))
            for width, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(make.group_norm(groups, width) for width in widths)

    def forward(self, latent: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
        features = [self.conv_in(latent)]
        for level in self.levels:
            features.append(level(features[-1]))
        pairs = zip(self.norms, features, strict=True)
        return [(rearrange(norm(y), "b c h w -> b (h w) c"), tuple(y.shape[2:])) for norm, y in pairs]


class PixelAwareAttention(nn.Module):
    """PACA at one spatial transformer: queries from all frames, keys and values from the first frame."""

    def __init__(self, make: Factory, channels: int, heads: int, positions: bool) -> None:
        super().__init__()
        self.positions = positions
        self.norm = make.layer_norm(channels)
        self.attn = MultiHeadAttention(make, channels, channels, heads)
        zero(self.attn.to_out)

    def forward(
        self,
        x: Tensor,
        features: Tensor,
        size: tuple[int, int],
        strength: float,
        options: dict | None = None,
        query_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """x: (b*t, n, c) the transformer's tokens; features: (b, h*w, c) of size (h, w).

        query_size: of x where it is another, as when a host shrinks what runs inside the network; positions then are
        read from the features' grid.
        """
        q, v = self.norm(x), features
        k = v
        if self.positions:
            table = sine_positions_2d(*size, x.shape[-1], device=x.device).to(x)
            k = k + table
            q = q + (table if query_size in (None, size) else _resized(table, size, query_size))
        attn = self.attn
        out = attn.to_out[0](attn.attend(attn.to_q(q), attn.to_k(k), attn.to_v(v), options))
        return out if strength == 1.0 else out * strength


def _resized(table: Tensor, size: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """A table of positions (h*w, c) read on another grid."""
    grid = rearrange(table, "(h w) c -> 1 c h w", h=size[0])
    return rearrange(F.interpolate(grid, wanted, mode="bilinear"), "1 c h w -> (h w) c")
