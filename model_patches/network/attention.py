"""Attention functions and the small blocks every transformer here is made of.

An attention function takes `(q, k, v, heads, transformer_options=...)` with q, k, v of shape (b, n, heads*d)
and returns (b, n, heads*d): the calling form of ComfyUI's `optimized_attention`, so that the host's choice of
kernel drops in. No mask is ever needed (see `swap_attention.py`), the only form every backend runs correctly.

`Factory` carries what a host injects into every layer: the classes of the weights (`operations`), the attention
function, dtype and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Attention = Callable[..., Tensor]
Layer = TypeVar("Layer", bound=nn.Module)

# Kernels index the batch with 16 bits in places (xformers, flash, cuDNN); temporal attention has one row a pixel.
MAX_ATTENTION_ROWS = 2**15 - 1


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict | None = None) -> Tensor:
    """PyTorch's fused softmax(q k^T / sqrt(d)) v."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def math_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict | None = None) -> Tensor:
    """The same in plain products: quicker on a CPU for a few tokens, and the reference for tests."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


def xformers_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict | None = None) -> Tensor:
    """xformers' memory-efficient attention."""
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]  # for cards alone

    q, k, v = (rearrange(x, "b n (h d) -> b n h d", h=heads).contiguous() for x in (q, k, v))
    return rearrange(memory_efficient_attention(q, k, v), "b n h d -> b n (h d)")


ATTENTION: dict[str, Attention] = {
    "sdpa": sdpa_attention,
    "math": math_attention,
    "xformers": xformers_attention,
}


class Factory:
    """Builds weights the way the host wants them.

    operations: namespace with Linear, Conv2d, Conv3d, GroupNorm, LayerNorm, Embedding (torch.nn, or ComfyUI's,
    which cast and offload).
    """

    def __init__(self, operations: Any = nn, attention: Attention | str = "sdpa", dtype=None, device=None) -> None:
        self.operations = operations
        self.attention = ATTENTION[attention] if isinstance(attention, str) else attention
        self.where = {"dtype": dtype, "device": device}

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
        return self.operations.Linear(inputs, outputs, bias=bias, **self.where)

    def conv(self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, **kwargs) -> nn.Conv2d:
        kwargs.setdefault("padding", kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel))
        return self.operations.Conv2d(inputs, outputs, kernel, **kwargs, **self.where)

    def group_norm(self, groups: int, channels: int, eps: float = 1e-5) -> nn.GroupNorm:
        return self.operations.GroupNorm(groups, channels, eps=eps, **self.where)

    def layer_norm(self, channels: int) -> nn.LayerNorm:
        return self.operations.LayerNorm(channels, **self.where)

    def weight(self, *shape: int) -> nn.Parameter:
        """A bare weight, filled with zeros. Only for leaf modules: hosts overlook bare weights elsewhere."""
        return nn.Parameter(torch.zeros(shape, **self.where))


def zero(module: Layer) -> Layer:
    """Fill a module's weights with zeros: how every added branch starts (Zhang & Agrawala 2023)."""
    for weight in module.parameters():
        nn.init.zeros_(weight)
    return module


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with SD's key names (`to_q`, `to_k`, `to_v`, `to_out.0`).

    The context may cover `folds` consecutive rows of x: they share keys and values, so they are folded into the
    query length instead of copying keys and values per frame (same numbers, half the memory).
    """

    def __init__(self, make: Factory, width: int, context_width: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        self.heads = heads
        self.attention = make.attention
        self.to_q = make.linear(width, inner, bias=False)
        self.to_k = make.linear(context_width, inner, bias=False)
        self.to_v = make.linear(context_width, inner, bias=False)
        self.to_out = nn.ModuleList([make.linear(inner, width)])

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        options: dict | None = None,
        adapter=None,
        value: Tensor | None = None,
        attend=None,
    ) -> Tensor:
        """x: (b, n, width). context: (b', m, context_width), b a multiple of b'; None: x itself.

        adapter: a function of the queries whose result is added before the output projection (FD Eq. 2).
        value: a context of its own for the values. attend: a function of q, k, v in softmax attention's place.
        """
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context if value is None else value)
        out = self.attend(q, k, v, options) if attend is None else attend(q, k, v)
        if adapter is not None:
            out = out + adapter(q)
        return self.to_out[0](out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: dict | None = None) -> Tensor:
        return folded_attention(self.attention, q, k, v, self.heads, options)


def folded_attention(attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int, options: dict | None) -> Tensor:
    """Attention where consecutive rows of q share one row of k and v; more rows than kernels index are chunked."""
    rows, shared = q.shape[0], k.shape[0]
    if rows != shared:
        q = rearrange(q, "(b f) n c -> b (f n) c", b=shared)
    if q.shape[0] <= MAX_ATTENTION_ROWS:
        out = attention(q, k, v, heads, transformer_options=options)
    else:
        chunks = zip(*(x.split(MAX_ATTENTION_ROWS) for x in (q, k, v)), strict=True)
        out = torch.cat([attention(*c, heads, transformer_options=options) for c in chunks])
    return rearrange(out, "b (f n) c -> (b f) n c", f=rows // shared) if rows != shared else out


class GEGLU(nn.Module):
    """x * gelu(gate), both from one projection."""

    def __init__(self, make: Factory, width: int, inner: int) -> None:
        super().__init__()
        self.proj = make.linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU feed-forward, four times as wide inside (SD's `ff.net.0.proj`, `ff.net.2`)."""

    def __init__(self, make: Factory, width: int) -> None:
        super().__init__()
        # Index 1 is the dropout of the original, which has no weights.
        self.net = nn.ModuleList([GEGLU(make, width, width * 4), nn.Identity(), make.linear(width * 4, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


def sine_positions(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal table: (n,) positions -> (n, width) with interleaved sin and cos (Vaswani 2017, AnimateDiff)."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10000.0) / width))
    angles = positions.float()[:, None] * rates[None]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def sine_positions_2d(height: int, width: int, channels: int, device=None) -> Tensor:
    """(height*width, channels): half of the channels tell the row, half the column."""
    rows = sine_positions(torch.arange(height, device=device), channels // 2)
    columns = sine_positions(torch.arange(width, device=device), channels // 2)
    table = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    return table.flatten(0, 1)
