"""Swap-CA: swapped spatio-temporal cross-attention in 3-D windows (VF Eq. 2 and 3).

    s~ = Proj_in(GN(s)),  t~ = Proj_in(GN(t))
    h  = MCA_3DW(LN(s~), LN(t~)) + s~          (the next site: MCA_3DSW(LN(t~), LN(s~)) + t~)
    h' = FFN(LN(h)) + h
    z  = t + s + Proj_out(h')

Windows do not overlap. Sizes that are no multiples of the window, and the shift in time, become smaller windows
at the edges: mathematically what padding with a mask and a cyclic roll give, without padding, mask or roll.
"""

from __future__ import annotations

from itertools import product

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import MAX_ATTENTION_ROWS, Factory, FeedForward, MultiHeadAttention, zero


def runs(length: int, window: int, shift: int = 0) -> list[tuple[int, int, int]]:
    """Split an axis into runs of equal windows: (start, window size, number of windows).

    A shift moves the borders: 16 frames in windows of 8 shifted by 4 are [4 | 8 | 4]. An axis no longer than the
    window is cut as well, [4 | 4] for 8 frames (Swin would leave it whole; the paper states no exception).
    """
    first = min(shift % window, length)
    whole, last = divmod(length - first, window)
    parts = [(0, first, 1), (first, window, whole), (first + whole * window, last, 1)]
    return [(start, size, count) for start, size, count in parts if size and count]


def window_attention(attend, q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int, int], shift: int) -> Tensor:
    """Attention inside 3-D windows. q, k, v: (b, f, h, w, c); window: (F, H, W); shift: frames.

    `attend(q, k, v)` gets (windows, tokens, c). At most 3 x 2 x 2 calls, each of equal windows in the batch.
    """
    out = torch.empty_like(q)
    axes = (
        runs(q.shape[1], window[0], shift),
        runs(q.shape[2], window[1]),
        runs(q.shape[3], window[2]),
    )
    for (f0, fs, fn), (h0, hs, hn), (w0, ws, wn) in product(*axes):
        here = (slice(None), slice(f0, f0 + fs * fn), slice(h0, h0 + hs * hn), slice(w0, w0 + ws * wn))
        sizes = {"f": fs, "h": hs, "w": ws}
        tokens = [rearrange(x[here], "b (F f) (H h) (W w) c -> (b F H W) (f h w) c", **sizes) for x in (q, k, v)]
        parts = zip(*(x.split(MAX_ATTENTION_ROWS) for x in tokens), strict=True)
        result = torch.cat([attend(*part) for part in parts])
        out[here] = rearrange(result, "(b F H W) (f h w) c -> b (F f) (H h) (W w) c", F=fn, H=hn, W=wn, **sizes)
    return out


class SwapAttention(nn.Module):
    """One Swap-CA site. `query` says who asks: "spatial" (Eq. 2) or "temporal" (Eq. 3); sites take turns, see
    `UNetBlocks._add_branches`.

    Proj_in and its GroupNorm are shared by s and t, as the paper's one symbol says; the parameter count (1.601 G)
    closes with a GEGLU feed-forward.
    """

    def __init__(
        self,
        make: Factory,
        channels: int,
        groups: int,
        head_dim: int,
        window: tuple[int, int, int] | None,
        query: str,
        shifted: bool,
    ) -> None:
        super().__init__()
        self.window, self.query = window, query
        self.shift = -(-window[0] // 2) if shifted and window else 0
        self.norm = make.group_norm(groups, channels, eps=1e-6)
        self.proj_in = make.linear(channels, channels)
        self.norm_query = make.layer_norm(channels)
        self.norm_context = make.layer_norm(channels)
        self.attn = MultiHeadAttention(make, channels, channels, channels // head_dim)
        self.norm_ff = make.layer_norm(channels)
        self.ff = FeedForward(make, channels)
        self.proj_out = zero(make.linear(channels, channels))

    def forward(
        self, s: Tensor, t: Tensor, frames: int, options: dict | None = None, windows: str = "trained"
    ) -> Tensor:
        """s, t: (b*f, c, h, w) spatial and temporal features; returns Proj_out(h') of the same shape.

        windows: "trained", or "global" for one window over the whole clip (VF Table 2).
        """
        height, width = s.shape[2:]

        def project(x: Tensor) -> Tensor:
            x = self.norm(rearrange(x, "(b f) c h w -> b c (f h w)", f=frames))
            x = rearrange(x, "b c (f h w) -> b f h w c", f=frames, h=height).contiguous()
            return self.proj_in(x)

        query, context = project(s), project(t)
        if self.query == "temporal":
            query, context = context, query
        h = query + self._attend(self.norm_query(query), self.norm_context(context), options, windows)
        h = h + self.ff(self.norm_ff(h))
        return rearrange(self.proj_out(h), "b f h w c -> (b f) c h w", h=height, w=width).contiguous()

    def _attend(self, query: Tensor, context: Tensor, options: dict | None, windows: str) -> Tensor:
        attn = self.attn
        q, k, v = attn.to_q(query), attn.to_k(context), attn.to_v(context)
        window, shift = self.window, self.shift
        if window is None or windows == "global":
            window, shift = (q.shape[1], q.shape[2], q.shape[3]), 0

        def attend(*tokens: Tensor) -> Tensor:
            return attn.attention(*tokens, attn.heads, transformer_options=options)

        return attn.to_out[0](window_attention(attend, q, k, v, window, shift))
