"""Layers along the U: the branches that papers add, keyed by position, and how a layer runs.

`UNetBlocks.join` is where spatial and temporal features meet, the heart of VideoFactory. The UNet has all
positions, PredictNet those of the decoder once more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Factory, zero
from .conditions import Embedded
from .config import UNetConfig
from .image_adapter import ImageAdapter
from .layout import Position, layout
from .paca import PixelAwareAttention
from .spatial import ResBlock, SpatialTransformer, Upsample
from .swap_attention import SwapAttention
from .temporal import MotionAttention, TemporalConv, TemporalSkip, TemporalTransformer


class Fusion(nn.Module):
    """1x1x1 convolution that merges spatial and temporal features (VF 4), a plain sum at start: [I | I]."""

    def __init__(self, make: Factory, channels: int) -> None:
        super().__init__()
        self.conv = make.conv(channels * 2, channels, 1)
        zero(self.conv)
        with torch.no_grad():
            for half in self.conv.weight.split(channels, dim=1):
                nn.init.dirac_(half)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return self.conv(torch.cat([s, t], dim=1))


class UNetBlocks(nn.Module):
    """The branches of some positions, and how a layer at one of them runs."""

    gradient_checkpointing = False
    output_blocks: Any  # an nn.ModuleList of nn.ModuleLists, which its type cannot say

    def __init__(self, config: UNetConfig, make: Factory, positions: tuple[Position, ...]) -> None:
        super().__init__()
        self.config = config
        self.temporal_convs = nn.ModuleDict()
        self.temporal_attentions = nn.ModuleDict()
        self.motion_attentions = nn.ModuleDict()
        self.temporal_skips = nn.ModuleDict()
        self.conv_fusions = nn.ModuleDict()
        self.attention_fusions = nn.ModuleDict()
        self.swap_attentions = nn.ModuleDict()
        self.image_adapters = nn.ModuleDict()
        self.paca_attentions = nn.ModuleDict()
        sites = {position.name: i for i, position in enumerate(layout(config).swap_sites)}
        for position in positions:
            if not position.downsample:
                self._add_branches(config, make, position, sites.get(position.name))

    def _add_branches(self, config: UNetConfig, make: Factory, position: Position, site: int | None) -> None:
        name, width, groups = position.name, position.channels, config.norm_groups
        heads, temporal_heads = config.heads(width), config.temporal_heads(width)
        convolves = config.temporal_conv and name != "middle_1"
        attends = position.temporal_attention
        up = name.startswith("output")
        if convolves:
            self.temporal_convs[name] = TemporalConv(make, width, groups, config.dropout)
        if attends:
            self.temporal_attentions[name] = TemporalTransformer(
                make,
                width,
                temporal_heads,
                groups,
                sinusoidal=config.temporal_positions == "sinusoidal",
                norm_by_frame=config.temporal_norm == "frame",
                motion_dim=config.motion_dim if config.motion_text == "replace" else None,
            )
            if config.motion_text == "added":
                self.motion_attentions[name] = MotionAttention(make, width, config.motion_dim, temporal_heads)
        if config.temporal_skips and position.enters_level and (convolves or attends):
            self.temporal_skips[name] = TemporalSkip(make)

        # The join of spatial and temporal features; Swap-CA takes the place of the last one of a block.
        swaps = site is not None and (convolves or attends)
        plain_at_site = swaps and (config.swap_attention != "off" or config.fusion == "conv_except_swap")
        if config.fusion != "sum":
            if convolves and not (plain_at_site and not attends):
                self.conv_fusions[name] = Fusion(make, width)
            if attends and not plain_at_site:
                self.attention_fusions[name] = Fusion(make, width)
        if site is not None and swaps and config.swap_attention != "off":
            query = {"spatial_query": "spatial", "temporal_query": "temporal"}.get(
                config.swap_attention, ("spatial", "temporal")[site % 2]
            )
            shifted = config.swap_shift and site % 2 == 1
            self.swap_attentions[name] = SwapAttention(
                make, width, groups, config.swap_head_dim, config.swap_window, query, shifted
            )

        if position.spatial_attention:
            if config.image_adapter == "all" or (config.image_adapter == "up" and up):
                self.image_adapters[name] = ImageAdapter(
                    make, width, config.image_token_dim, heads, config.image_scale == "learnable"
                )
            if config.paca and up:
                self.paca_attentions[name] = PixelAwareAttention(make, width, heads, config.paca_positions)

    # -- how a layer runs -------------------------------------------------------------------------------------

    def convolve_in_time(self, position: Position, s: Tensor, temporal_skip: Tensor | None, cond: Embedded):
        """Temporal convolution after a ResBlock, joined to it."""
        if cond.still or position.name not in self.temporal_convs:
            return s, temporal_skip
        module = partial(self.temporal_convs[position.name], frames=cond.frames)
        last = position.name not in self.temporal_attentions
        return self.join(position, s, module, self.conv_fusions, temporal_skip, cond, enters=True, last=last)

    def attend_in_time(self, position: Position, s: Tensor, temporal_skip: Tensor | None, cond: Embedded):
        """Temporal transformer after a spatial one, joined to it."""
        if cond.still or position.name not in self.temporal_attentions:
            return s, temporal_skip
        module = partial(
            self.temporal_attentions[position.name],
            frames=cond.frames,
            frame_index=cond.frame_index,
            motion=cond.motion_text,
            motion_attention=_get(self.motion_attentions, position.name),
            options=cond.options,
        )
        enters = position.name not in self.temporal_convs
        return self.join(position, s, module, self.attention_fusions, temporal_skip, cond, enters=enters, last=True)

    def join(self, position, s, temporal, fusions, temporal_skip, cond: Embedded, *, enters: bool, last: bool):
        """z = s + t (a sum, or VF's fusion convolution), + Swap-CA(s, t) at the end of a block (VF Eq. 2-3).

        t is the temporal module's residual, fed with the temporal skip of the previous resolution where one
        arrives. Returns z and t, which is the next resolution's skip.
        """
        name = position.name
        if enters and temporal_skip is not None and name in self.temporal_skips:
            skip = self.temporal_skips[name](temporal_skip, like=s)
            t = temporal(s + skip) + skip
        else:
            t = temporal(s)
        if last and name in self.swap_attentions:
            strength = cond.strength("swap_attention")
            if not strength:
                return s + t, t
            swap = self.swap_attentions[name]
            return s + t + swap(s, t, cond.frames, cond.options, cond.swap_windows) * strength, t
        if name in fusions:
            return fusions[name](s, t), t
        return s + t, t

    def attend_in_space(self, position: Position, transformer: nn.Module, x: Tensor, cond: Embedded) -> Tensor:
        """Spatial transformer with the image adapter and PACA of its position."""
        name, adapter, paca = position.name, None, None
        if cond.image_tokens is not None and name in self.image_adapters:
            strength = cond.strength("image_adapter")
            if strength:
                adapter = partial(
                    self.image_adapters[name],
                    tokens=cond.image_tokens,
                    strength=strength,
                    options=cond.options,
                )
        if cond.pyramid is not None and name in self.paca_attentions:
            strength = cond.strength("paca")
            if strength:
                features, size = cond.pyramid[position.level]
                paca = partial(
                    self.paca_attentions[name],
                    query_size=tuple(x.shape[2:]),
                    features=features,
                    size=size,
                    strength=strength,
                    options=cond.options,
                )
        cond.hooks.enter_transformer(x)
        x = transformer(x, cond.text, cond.options, adapter, paca)
        cond.hooks.leave_transformer()
        return x

    def layer(
        self, position: Position, modules: nn.ModuleList, x: Tensor, temporal_skip: Tensor | None, cond: Embedded
    ):
        """ResBlock, temporal convolution [, spatial transformer] [, temporal transformer]."""
        x = modules[0](x, cond.timestep)
        x, temporal_skip = self.convolve_in_time(position, x, temporal_skip, cond)
        if position.spatial_attention:
            x = self.attend_in_space(position, modules[1], x, cond)
        return self.attend_in_time(position, x, temporal_skip, cond)

    def run(self, function, *args, cond: Embedded):
        """One layer as a unit; with gradient checkpointing it is computed again in the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(cond.hooks.repeatable(function), *args, cond, use_reentrant=False)
        return function(*args, cond)

    def decode(self, x: Tensor, skips: list[Tensor], temporal_skip: Tensor | None, cond: Embedded) -> Tensor:
        """The up path over `output_blocks`; sizes come from the skips, so odd sizes fit."""
        for position, modules in zip(layout(self.config).outputs, self.output_blocks, strict=True):
            cond.hooks.note(block=("output", position.index))
            x = cond.hooks.before_output(x, skips.pop())
            x, temporal_skip = self.run(self.layer, position, modules, x, temporal_skip, cond=cond)
            if position.upsample:
                x = modules[-1](x, tuple(skips[-1].shape[2:]))
        return x

    def checkpoint_gradients(self, on: bool = True) -> None:
        """Compute layers again in the backward pass instead of keeping them: less memory, about a quarter slower."""
        for module in self.modules():
            if isinstance(module, UNetBlocks):
                module.gradient_checkpointing = on


def _get(branches: nn.ModuleDict, name: str) -> nn.Module | None:
    return branches[name] if name in branches else None  # noqa: SIM401 (ModuleDict has no get)


def residual_layer(config: UNetConfig, make: Factory, position: Position) -> nn.ModuleList:
    """The spatial modules of a layer, in SD's order and indices."""
    width, embedding = position.channels, config.model_channels * 4
    modules: list[nn.Module] = [ResBlock(make, position.channels_in, width, embedding, config.norm_groups)]
    if position.spatial_attention:
        modules.append(spatial_transformer(config, make, width))
    if position.upsample:
        modules.append(Upsample(make, width))
    return nn.ModuleList(modules)


def spatial_transformer(config: UNetConfig, make: Factory, width: int) -> SpatialTransformer:
    heads, groups = config.heads(width), config.norm_groups
    return SpatialTransformer(make, width, config.context_dim, heads, groups, config.linear_projection)


def output_head(config: UNetConfig, make: Factory, channels: int) -> nn.Sequential:
    width = config.model_channels * config.channel_mult[0]
    return nn.Sequential(make.group_norm(config.norm_groups, width), nn.SiLU(), zero(make.conv(width, channels)))
