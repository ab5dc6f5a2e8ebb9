"""The spatial half: Stable Diffusion's own blocks, in its own (LDM) key names. Frames are in the batch.

x is (b*t, c, h, w) throughout; text is (b, n, c), or (b*t, n, c) when every frame has its own prompt.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Factory, FeedForward, MultiHeadAttention, zero
from .hooks import AttentionHooks


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """(b,) -> (b, width) float32: cos then sin of t * 10000^(-i / half)."""
    half = width // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * rates[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, width % 2))


def embedding_mlp(make: Factory, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(make.linear(inputs, outputs), nn.SiLU(), make.linear(outputs, outputs))


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, + time, GroupNorm, SiLU, convolution, + skip."""

    def __init__(self, make: Factory, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(make.group_norm(groups, inputs), nn.SiLU(), make.conv(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), make.linear(embedding, outputs))
        # Index 2 is the dropout of the original, which has no weights.
        self.out_layers = nn.Sequential(
            make.group_norm(groups, outputs), nn.SiLU(), nn.Identity(), zero(make.conv(outputs, outputs))
        )
        self.skip_connection = nn.Identity() if inputs == outputs else make.conv(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, make: Factory, channels: int) -> None:
        super().__init__()
        self.op = make.conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest neighbours to a given size, then a convolution. The size is the skip's, so odd sizes fit."""

    def __init__(self, make: Factory, channels: int) -> None:
        super().__init__()
        self.conv = make.conv(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == (x.shape[2] * 2, x.shape[3] * 2):
            # Same numbers as interpolate(); its backward pass is several times slower on a CPU.
            x = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(*x.shape[:2], *size)
        else:
            x = F.interpolate(x, size=size, mode="nearest")
        return self.conv(x)


class SpatialBlock(nn.Module):
    """Self-attention, cross-attention to text [+ image adapter], [PACA], feed-forward."""

    def __init__(self, make: Factory, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = make.layer_norm(width)
        self.attn1 = MultiHeadAttention(make, width, width, heads)
        self.norm2 = make.layer_norm(width)
        self.attn2 = MultiHeadAttention(make, width, context_dim, heads)
        self.norm3 = make.layer_norm(width)
        self.ff = FeedForward(make, width)

    def forward(self, x: Tensor, text: Tensor, options: dict | None, adapter=None, paca=None) -> Tensor:
        heads = self.attn1.heads
        hooks = AttentionHooks(options, heads, x.shape[-1] // heads)
        x = x + hooks.attend("attn1", self.attn1, self.norm1(x))
        x = hooks.patch("middle_patch", x)
        x = x + hooks.attend("attn2", self.attn2, self.norm2(x), text, adapter)
        if paca is not None:
            x = x + paca(x)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """GroupNorm, projection, one SpatialBlock over a frame's pixels, projection, + x."""

    def __init__(self, make: Factory, channels: int, context_dim: int, heads: int, groups: int, linear: bool) -> None:
        super().__init__()
        project = make.linear if linear else lambda i, o: make.conv(i, o, 1)
        self.linear = linear
        self.norm = make.group_norm(groups, channels, eps=1e-6)
        self.proj_in = project(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(make, channels, context_dim, heads)])
        self.proj_out = zero(project(channels, channels))

    def forward(self, x: Tensor, text: Tensor, options: dict | None = None, adapter=None, paca=None) -> Tensor:
        height = x.shape[2]
        h = self.norm(x)
        if not self.linear:
            h = self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c")
        if self.linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, text, options, adapter, paca)
        if self.linear:
            h = self.proj_out(h)
        h = rearrange(h, "b (h w) c -> b c h w", h=height)
        if not self.linear:
            h = self.proj_out(h)
        return x + h
