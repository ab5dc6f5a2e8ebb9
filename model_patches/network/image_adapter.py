"""Image adapter: decoupled cross-attention to image tokens (FD Eq. 2), in IP-Adapter's structure.

    Z = CA(q, kv(text)) + lambda * CA(q, kv_adp(image)),  lambda = 1

sharing the queries and the output projection with the text attention. Tokens come from a projector that runs
once per clip (`ImageProjector`), never inside the denoising loop.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import Factory, folded_attention, zero
from .config import ProjectorConfig


class LearnableScale(nn.Module):
    """tanh(alpha) + 1 (DynamiCrafter 256)."""

    def __init__(self, make: Factory) -> None:
        super().__init__()
        self.alpha = make.weight()

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.alpha.to(x).tanh() + 1)


class ImageAdapter(nn.Module):
    """Keys and values for image tokens, at one spatial transformer. Values start at zero: no effect at first."""

    def __init__(self, make: Factory, channels: int, token_dim: int, heads: int, learnable_scale: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attention = make.attention
        self.to_k_ip = make.linear(token_dim, channels, bias=False)
        self.to_v_ip = zero(make.linear(token_dim, channels, bias=False))
        self.scale = LearnableScale(make) if learnable_scale else None

    def forward(self, q: Tensor, tokens: Tensor, strength: float, options: dict | None = None) -> Tensor:
        """q: (b*t, n, c) the text attention's queries. tokens: (b, m, token_dim) or (b*t, m, token_dim)."""
        out = folded_attention(self.attention, q, self.to_k_ip(tokens), self.to_v_ip(tokens), self.heads, options)
        out = out if self.scale is None else self.scale(out)
        return out if strength == 1.0 else out * strength


def split_tokens(tokens: Tensor, frames: int, per_frame: int | None) -> Tensor:
    """(b, n, c) -> (b*t, per_frame, c) when n is exactly `per_frame` a frame; else every frame sees all tokens.

    DynamiCrafter's rule: 16 queries for each of 16 frames; any other number of frames sees all 256.
    """
    if per_frame is not None and tokens.shape[1] == per_frame * frames:
        return rearrange(tokens, "b (t n) c -> (b t) n c", t=frames)
    return tokens


class LinearProjector(nn.Module):
    """Pooled image embedding (b, embedding_dim) -> (b, queries, output_dim): IP-Adapter's ImageProjModel."""

    def __init__(self, make: Factory, config: ProjectorConfig) -> None:
        super().__init__()
        self.queries = config.queries
        self.proj = make.linear(config.embedding_dim, config.queries * config.output_dim)
        self.norm = make.layer_norm(config.output_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(rearrange(self.proj(features), "b (n c) -> b n c", n=self.queries))


class PerceiverAttention(nn.Module):
    """Queries look at image features and at themselves."""

    def __init__(self, make: Factory, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.attention = make.attention
        self.norm1 = make.layer_norm(dim)
        self.norm2 = make.layer_norm(dim)
        self.to_q = make.linear(dim, inner, bias=False)
        self.to_kv = make.linear(dim, inner * 2, bias=False)
        self.to_out = make.linear(inner, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(self.attention(self.to_q(latents), k, v, self.heads))


class Queries(nn.Module):
    """The learned queries, in a leaf module so that a host's casting and offload see them."""

    def __init__(self, make: Factory, count: int, dim: int) -> None:
        super().__init__()
        self.weight = make.weight(1, count, dim)
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, like: Tensor) -> Tensor:
        return repeat(self.weight.to(like), "1 n c -> b n c", b=like.shape[0])


class Resampler(nn.Module):
    """Perceiver: patch features (b, m, embedding_dim) -> (b, queries [* frames], output_dim)."""

    def __init__(self, make: Factory, config: ProjectorConfig) -> None:
        super().__init__()
        dim = config.dim
        self.latents = Queries(make, config.queries * (config.frames or 1), dim)
        self.proj_in = make.linear(config.embedding_dim, dim)
        self.proj_out = make.linear(dim, config.output_dim)
        self.norm_out = make.layer_norm(config.output_dim)

        def feed_forward() -> nn.Sequential:
            inner = dim * config.ff_mult
            return nn.Sequential(
                make.layer_norm(dim),
                make.linear(dim, inner, bias=False),
                nn.GELU(),
                make.linear(inner, dim, bias=False),
            )

        # Of nn.ModuleLists, which its type cannot say.
        self.layers: Any = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(make, dim, config.heads, config.head_dim), feed_forward()])
            for _ in range(config.depth)
        )

    def forward(self, features: Tensor) -> Tensor:
        x = self.proj_in(features)
        latents = self.latents(x)
        for attention, feed_forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


def image_projector(make: Factory, config: ProjectorConfig) -> nn.Module:
    return (LinearProjector if config.kind == "linear" else Resampler)(make, config)
