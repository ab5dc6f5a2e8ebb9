"""The temporal half, laid out so that ModelScope, VideoCrafter and DynamiCrafter weights import exactly.

Every module here answers with its *residual* t, so that a reader finds the papers' `s + t` in one place, the
network's `join`: t = temporal(s) - s in the peers' serial layout. x is (b*t, c, h, w), frames in the batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Factory, FeedForward, MultiHeadAttention, sine_positions, zero


class TemporalConv(nn.Module):
    """Four times GroupNorm, SiLU, (3,1,1) convolution over frames (ModelScope), the last one zero at start.

    Stored and run as (3,1) 2-D convolutions on (b, c, t, h*w): the same numbers as Conv3d (3,1,1), faster on
    every device tried, and free of Conv3d's faults in half precision. Statistics run over (t, h, w).
    """

    def __init__(self, make: Factory, channels: int, groups: int, dropout: float) -> None:
        super().__init__()

        def layer(*between: nn.Module) -> nn.Sequential:
            convolution = make.conv(channels, channels, (3, 1))
            return nn.Sequential(make.group_norm(groups, channels), nn.SiLU(), *between, convolution)

        self.conv1 = layer()
        self.conv2 = layer(nn.Dropout(dropout))
        self.conv3 = layer(nn.Dropout(dropout))
        self.conv4 = layer(nn.Dropout(dropout))
        zero(self.conv4[-1])

    def forward(self, x: Tensor, frames: int) -> Tensor:
        height = x.shape[2]
        h = rearrange(x, "(b t) c h w -> b c t (h w)", t=frames)
        h = self.conv4(self.conv3(self.conv2(self.conv1(h))))
        return rearrange(h, "b c t (h w) -> (b t) c h w", h=height)


class MotionAttention(nn.Module):
    """Motion text into a temporal transformer: cross-attention to T5 tokens, zero at its output (FD 3.2)."""

    def __init__(self, make: Factory, width: int, motion_dim: int, heads: int) -> None:
        super().__init__()
        self.norm = make.layer_norm(width)
        self.attn = MultiHeadAttention(make, width, motion_dim, heads)
        zero(self.attn.to_out)

    def forward(self, x: Tensor, motion: Tensor, options: dict | None) -> Tensor:
        return self.attn(self.norm(x), motion, options)


class TemporalBlock(nn.Module):
    """Two self-attentions over frames (the second may be motion text), [motion text], feed-forward."""

    def __init__(self, make: Factory, width: int, heads: int, motion_dim: int | None) -> None:
        super().__init__()
        self.second_is_motion = motion_dim is not None
        self.norm1 = make.layer_norm(width)
        self.attn1 = MultiHeadAttention(make, width, width, heads)
        self.norm2 = make.layer_norm(width)
        self.attn2 = MultiHeadAttention(make, width, motion_dim or width, heads)
        self.norm3 = make.layer_norm(width)
        self.ff = FeedForward(make, width)

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None,
        motion: Tensor | None,
        motion_attention: MotionAttention | None,
        options: dict | None,
    ) -> Tensor:
        def placed(h: Tensor) -> Tensor:
            return h if positions is None else h + positions

        x = x + self.attn1(placed(self.norm1(x)), None, options)
        if not self.second_is_motion:
            x = x + self.attn2(placed(self.norm2(x)), None, options)
        elif motion is not None:
            x = x + self.attn2(self.norm2(x), motion, options)
        if motion_attention is not None and motion is not None:
            x = x + motion_attention(x, motion, options)
        return x + self.ff(self.norm3(x))


class TemporalTransformer(nn.Module):
    """GroupNorm, projection, attention along the frames of each pixel, projection.

    Statistics of the norm run over (t, h, w), or over (h, w) of each frame, as in AnimateDiff's own code.
    """

    def __init__(
        self,
        make: Factory,
        channels: int,
        heads: int,
        groups: int,
        *,
        inner: int | None = None,
        sinusoidal: bool = False,
        norm_by_frame: bool = False,
        motion_dim: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner or channels
        self.inner, self.sinusoidal, self.norm_by_frame = inner, sinusoidal, norm_by_frame
        self.norm = make.group_norm(groups, channels, eps=1e-6)
        self.proj_in = make.linear(channels, inner)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(make, inner, heads, motion_dim)])
        self.proj_out = zero(make.linear(inner, channels))

    def forward(
        self,
        x: Tensor,
        frames: int,
        frame_index: Tensor,
        motion: Tensor | None = None,
        motion_attention: MotionAttention | None = None,
        options: dict | None = None,
    ) -> Tensor:
        height, width = x.shape[2:]
        if self.norm_by_frame:
            h = rearrange(self.norm(x), "(b t) c h w -> b c (t h w)", t=frames)
        else:
            h = self.norm(rearrange(x, "(b t) c h w -> b c (t h w)", t=frames))
        # Contiguous: a strided view here makes the projections many times slower in half precision.
        h = rearrange(h, "b c (t h w) -> (b h w) t c", t=frames, h=height).contiguous()
        h = self.proj_in(h)
        positions = None
        if self.sinusoidal:
            positions = sine_positions(frame_index.flatten(), self.inner).to(h).unflatten(0, frame_index.shape)
            if positions.ndim == 3:  # of each clip
                positions = positions.repeat_interleave(height * width, dim=0)
        for block in self.transformer_blocks:
            h = block(h, positions, motion, motion_attention, options)
        h = self.proj_out(h)
        return rearrange(h, "(b h w) t c -> (b t) c h w", h=height, w=width).contiguous()


class TemporalSkip(nn.Module):
    """Temporal features of one resolution reach the temporal modules of the next (VF 4), through a zero gate.

    Resizing has no weights: adaptive averages, in width as in space. Where a size doubles they are nearest neighbours.
    """

    def __init__(self, make: Factory) -> None:
        super().__init__()
        self.gate = make.weight()

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        t = F.adaptive_avg_pool3d(t[:, None], (like.shape[1], like.shape[2], like.shape[3]))[:, 0]
        return t * self.gate.to(t)
