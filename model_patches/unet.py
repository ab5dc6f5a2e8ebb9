"""The spatio-temporal UNet of both papers. Read `forward` beside FD Fig. 2 and VF Fig. 3.

    noisy latents [+ first frame]                        FD Fig. 2      first_frame_concat
      -> encoder: ResBlock, temporal convolution,        ModelScope     temporal_convs
                  spatial transformer,                   SD             input_blocks
                  temporal transformer,                  ModelScope     temporal_attentions
                    with motion text (T5),               FD 3.2         motion_attentions
                  join of spatial and temporal           VF 4, Eq. 2-3  fusions, swap_attentions, temporal_skips
      -> middle
      -> decoder: the same, and in its transformers
                    image adapter,                       FD Eq. 2       image_adapters
                    pixel-aware cross-attention          FD Eq. 3       paca_attentions, paca_pyramid
      -> prediction [, optical flow]                     FD Eq. 4       predict_net

Latents are frames in the batch, (b*t, c, h, w). Spatial weights keep Stable Diffusion's key names; everything
else lives in module dictionaries keyed by position (`layout.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attention, Factory, zero
from .config import UNetConfig
from .image_adapter import ImageAdapter, image_projector, split_tokens
from .layout import Position, layout
from .paca import LatentPyramid, PixelAwareAttention
from .spatial import Downsample, ResBlock, SpatialTransformer, Upsample, embedding_mlp, timestep_embedding
from .swap_attention import SwapAttention
from .temporal import MotionAttention, TemporalConv, TemporalSkip, TemporalTransformer

STRENGTHS = ("image_adapter", "paca", "swap_attention")


@dataclass
class Conditions:
    """Everything a layer may look at besides its input; made once per forward pass."""

    embedding: Tensor  # (b*t, 4*model_channels)
    text: Tensor  # (b, n, context_dim) or (b*t, n, context_dim)
    frames: int
    still: bool
    frame_index: Tensor
    motion: Tensor | None = None  # (b, m, motion_dim)
    image_tokens: Tensor | None = None  # (b, n, image_token_dim) or (b*t, n, image_token_dim)
    pyramid: list | None = None  # PACA's features, one (tokens, size) a level
    strengths: Mapping[str, float] = field(default_factory=dict)
    options: dict | None = None

    def strength(self, name: str) -> float:
        return self.strengths.get(name, 1.0)


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


class Path(nn.Module):
    """Layers along the U: the branches that papers add, keyed by position, and how a layer runs.

    The UNet is a path over all positions; PredictNet is a second path over the decoder's.
    """

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
        if swaps and config.swap_attention != "off":
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

    def convolve_in_time(self, position: Position, s: Tensor, carry: Tensor | None, cond: Conditions):
        """Temporal convolution after a ResBlock, joined to it."""
        if cond.still or position.name not in self.temporal_convs:
            return s, carry
        module = partial(self.temporal_convs[position.name], frames=cond.frames)
        last = position.name not in self.temporal_attentions
        return self.join(position, s, module, self.conv_fusions, carry, cond, enters=True, last=last)

    def attend_in_time(self, position: Position, s: Tensor, carry: Tensor | None, cond: Conditions):
        """Temporal transformer after a spatial one, joined to it."""
        if cond.still or position.name not in self.temporal_attentions:
            return s, carry
        module = partial(
            self.temporal_attentions[position.name],
            frames=cond.frames,
            frame_index=cond.frame_index,
            motion=cond.motion,
            motion_attention=_get(self.motion_attentions, position.name),
            options=cond.options,
        )
        enters = position.name not in self.temporal_convs
        return self.join(position, s, module, self.attention_fusions, carry, cond, enters=enters, last=True)

    def join(self, position, s, temporal, fusions, carry, cond: Conditions, *, enters: bool, last: bool):
        """z = s + t (a sum, or VF's fusion convolution), + Swap-CA(s, t) at the end of a block (VF Eq. 2-3).

        t is the temporal module's residual, fed with the temporal skip of the previous resolution where one
        arrives. Returns z and t, which is the next resolution's skip.
        """
        name = position.name
        if enters and carry is not None and name in self.temporal_skips:
            skip = self.temporal_skips[name](carry, like=s)
            t = temporal(s + skip) + skip
        else:
            t = temporal(s)
        if last and name in self.swap_attentions:
            swap = self.swap_attentions[name](s, t, cond.frames, cond.options)
            return s + t + swap * cond.strength("swap_attention"), t
        if name in fusions:
            return fusions[name](s, t), t
        return s + t, t

    def attend_in_space(self, position: Position, transformer: nn.Module, x: Tensor, cond: Conditions) -> Tensor:
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
                    features=features,
                    size=size,
                    strength=strength,
                    options=cond.options,
                )
        return transformer(x, cond.text, cond.options, adapter, paca)

    def layer(self, position: Position, modules: nn.ModuleList, x: Tensor, carry: Tensor | None, cond: Conditions):
        """ResBlock, temporal convolution [, spatial transformer] [, temporal transformer]."""
        x = modules[0](x, cond.embedding)
        x, carry = self.convolve_in_time(position, x, carry, cond)
        if position.spatial_attention:
            x = self.attend_in_space(position, modules[1], x, cond)
        return self.attend_in_time(position, x, carry, cond)

    def run(self, function, *args):
        """One layer as a unit; with gradient checkpointing it is computed again in the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def decode(self, x: Tensor, skips: list[Tensor], carry: Tensor | None, cond: Conditions) -> Tensor:
        """The up path over `output_blocks`; sizes come from the skips, so odd sizes fit."""
        for position, modules in zip(layout(self.config).outputs, self.output_blocks, strict=True):
            x = torch.cat([x, skips.pop()], dim=1)
            x, carry = self.run(self.layer, position, modules, x, carry, cond)
            if position.upsample:
                x = modules[-1](x, tuple(skips[-1].shape[2:]))
        return x

    gradient_checkpointing = False


def _get(branches: nn.ModuleDict, name: str) -> nn.Module | None:
    return branches[name] if name in branches else None  # noqa: SIM401 (ModuleDict has no get)


def residual_layer(config: UNetConfig, make: Factory, position: Position) -> nn.ModuleList:
    """The spatial modules of a layer, in SD's order and indices."""
    width, embedding = position.channels, config.model_channels * 4
    modules = [ResBlock(make, position.channels_in, width, embedding, config.norm_groups)]
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


class PredictNet(Path):
    """Optical flow from x_t, t and the conditions (FD Eq. 4): the decoder again, ControlNet-style.

    Fed by the shared encoder's skips; starts as a copy of the decoder (`VideoUNet.start_predict_net`) with a
    zero head. Forward flow in latent pixels per frame; the last frame has none, so mask it in the loss.
    """

    def __init__(self, config: UNetConfig, make: Factory) -> None:
        plan = layout(config)
        super().__init__(config, make, plan.outputs)
        self.output_blocks = nn.ModuleList(residual_layer(config, make, p) for p in plan.outputs)
        self.out = output_head(config, make, config.flow_channels)

    def forward(self, x: Tensor, skips: list[Tensor], carry: Tensor | None, cond: Conditions) -> Tensor:
        return self.out(self.decode(x, skips, carry, cond))


class VideoUNet(Path):
    """The network. `config` says its shape; operations, attention, dtype and device are the host's to choose."""

    schedule: dict | None = None  # the noise schedule the weights were trained with, as plain data

    def __init__(
        self,
        config: UNetConfig,
        *,
        operations=nn,
        attention: Attention | str = "sdpa",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        plan = layout(config)
        make = Factory(operations, attention, dtype, device)
        super().__init__(config, make, (*plan.inputs, *plan.middle, *plan.outputs))
        width, embedding, groups = config.model_channels, config.model_channels * 4, config.norm_groups

        self.time_embed = embedding_mlp(make, width, embedding)
        first = nn.ModuleList([make.conv(config.concat_channels, width)])
        self.input_blocks = nn.ModuleList([first])
        for position in plan.inputs:
            self.input_blocks.append(
                nn.ModuleList([Downsample(make, position.channels)])
                if position.downsample
                else residual_layer(config, make, position)
            )
        middle = plan.middle[0].channels
        self.middle_block = nn.ModuleList(
            [
                ResBlock(make, middle, middle, embedding, groups),
                spatial_transformer(config, make, middle),
                ResBlock(make, middle, middle, embedding, groups),
            ]
        )
        self.output_blocks = nn.ModuleList(residual_layer(config, make, p) for p in plan.outputs)
        self.out = output_head(config, make, config.out_channels)

        if config.init_temporal:
            heads = config.init_temporal_heads
            inner = heads * config.init_temporal_head_dim
            self.init_temporal = TemporalTransformer(make, width, heads, groups, inner=inner)
        if config.frame_rate_embedding != "off":
            self.frame_rate_embedding = embedding_mlp(make, width, embedding)
            zero(self.frame_rate_embedding[-1])
        if config.paca:
            widths = [width * m for m in config.channel_mult]
            used = max(p.level for p in plan.outputs if p.spatial_attention) + 1
            self.paca_pyramid = LatentPyramid(make, config.in_channels, widths[:used], groups)
        if config.image_projector is not None:
            self.image_projector = image_projector(make, config.image_projector)
        if config.predict_net:
            self.predict_net = PredictNet(config, make)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        num_frames: int,
        motion_text: Tensor | None = None,
        first_frame: Tensor | None = None,
        last_frame: Tensor | None = None,
        image_tokens: Tensor | None = None,
        frame_rate: Tensor | float | None = None,
        frame_index: Tensor | None = None,
        still: bool | None = None,
        strengths: Mapping[str, float] | None = None,
        transformer_options: dict | None = None,
        return_flow: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict what the schedule asks for (noise, v or x0) from noisy latents.

        x: (b*t, in_channels, h, w) noisy latents, frames in the batch, any h and w.
        timesteps: (b,) or (b*t,) in [0, 1000). context: text tokens (b, n, context_dim), or one row a frame.
        num_frames: t. motion_text: (b, m, motion_dim). first_frame, last_frame: clean latents (b, in_channels, h, w).
        image_tokens: (b, n, image_token_dim), see `project_image`. frame_rate: one number, or (b,); None takes the
        config's default. frame_index: (t,) positions of the frames in a longer clip. still: leave the temporal
        half out; None does so for single frames (VF C.3). strengths: `image_adapter`, `paca`, `swap_attention`,
        each 1 by default, 0 switches the branch off.

        Returns (b*t, out_channels, h, w); with return_flow also PredictNet's (b*t, flow_channels, h, w).
        """
        self._check(x, num_frames, strengths, return_flow)
        batch = x.shape[0] // num_frames
        cond = self._conditions(
            x, batch, timesteps, context, num_frames, motion_text, first_frame, image_tokens, frame_rate,
            frame_index, still, strengths, transformer_options,
        )  # fmt: skip
        if self.config.first_frame_concat != "off":
            x = torch.cat([x, self._concat_frames(x, num_frames, first_frame, last_frame)], dim=1)

        plan, carry = layout(self.config), None
        x = self.input_blocks[0][0](x)
        if self.config.init_temporal and not cond.still:
            x = x + self.init_temporal(x, cond.frames, cond.frame_index, options=cond.options)
        skips = [x]
        for position, modules in zip(plan.inputs, self.input_blocks[1:], strict=True):
            if position.downsample:
                x = modules[0](x)
            else:
                x, carry = self.run(self.layer, position, modules, x, carry, cond)
            skips.append(x)
        x, carry = self.run(self._middle, x, carry, cond)

        flow = self.predict_net(x, list(skips), carry, cond) if return_flow else None
        output = self.out(self.decode(x, skips, carry, cond))
        return (output, flow) if return_flow else output

    def project_image(self, features: Tensor) -> Tensor:
        """Image features of the vision encoder -> image tokens (b, n, image_token_dim); once per clip."""
        return self.image_projector(features)

    def start_predict_net(self) -> None:
        """Copy the decoder into PredictNet, as FD initialises it; its head stays as it is (zero)."""
        decoder = {k: v for k, v in self.state_dict().items() if k.split(".")[0] not in ("out", "predict_net")}
        own = self.predict_net.state_dict()
        self.predict_net.load_state_dict({k: decoder.get(k, v) for k, v in own.items()})

    # -- parts of forward -------------------------------------------------------------------------------------

    def _middle(self, x: Tensor, carry: Tensor | None, cond: Conditions):
        first, centre, last = layout(self.config).middle
        x = self.middle_block[0](x, cond.embedding)
        x, carry = self.convolve_in_time(first, x, carry, cond)
        x = self.attend_in_space(centre, self.middle_block[1], x, cond)
        x, carry = self.attend_in_time(centre, x, carry, cond)
        x = self.middle_block[2](x, cond.embedding)
        return self.convolve_in_time(last, x, carry, cond)

    def _conditions(
        self, x, batch, timesteps, context, frames, motion, first_frame, image_tokens, frame_rate,
        frame_index, still, strengths, options,
    ) -> Conditions:  # fmt: skip
        config, dtype = self.config, x.dtype

        def per_frame(rows: Tensor) -> Tensor:
            return rows if rows.shape[0] == x.shape[0] else repeat(rows, "b ... -> (b t) ...", t=frames)

        embedding = self.time_embed(timestep_embedding(timesteps.flatten(), config.model_channels).to(dtype))
        embedding = per_frame(embedding.expand(max(batch, embedding.shape[0]), -1))
        if config.frame_rate_embedding != "off":
            rate = config.frame_rate_default if frame_rate is None else frame_rate
            rate = torch.as_tensor(rate, device=x.device).flatten()
            rate = self.frame_rate_embedding(timestep_embedding(rate, config.model_channels).to(dtype))
            embedding = embedding + per_frame(rate.expand(max(batch, rate.shape[0]), -1))
        if image_tokens is not None:
            image_tokens = split_tokens(image_tokens.to(dtype), frames, config.image_tokens_per_frame)
        return Conditions(
            embedding=embedding,
            text=context.to(dtype),
            frames=frames,
            still=frames == 1 if still is None else still,
            frame_index=torch.arange(frames, device=x.device) if frame_index is None else frame_index,
            motion=None if motion is None else motion.to(dtype),
            image_tokens=image_tokens,
            pyramid=self.paca_pyramid(first_frame.to(dtype)) if config.paca and first_frame is not None else None,
            strengths=strengths or {},
            options=options,
        )

    def _concat_frames(self, x: Tensor, frames: int, first: Tensor | None, last: Tensor | None) -> Tensor:
        """The extra input channels: the first frame repeated, or the two ends with zeros between."""
        if first is None:
            return torch.zeros_like(x)
        first = first.to(x)
        if self.config.first_frame_concat == "repeat":
            return repeat(first, "b c h w -> (b t) c h w", t=frames)
        clip = torch.zeros_like(x).unflatten(0, (-1, frames))
        clip[:, -1] = first if last is None else last.to(x)
        clip[:, 0] = first
        return rearrange(clip, "b t c h w -> (b t) c h w")

    def _check(self, x: Tensor, frames: int, strengths: Mapping[str, float] | None, return_flow: bool) -> None:
        if frames < 1 or x.shape[0] % frames:
            raise ValueError(f"{x.shape[0]} latents do not divide into clips of {frames} frames.")
        if x.shape[1] != self.config.in_channels:
            raise ValueError(f"latents have {x.shape[1]} channels; this network takes {self.config.in_channels}.")
        unknown = set(strengths or ()) - set(STRENGTHS)
        if unknown:
            raise ValueError(f"unknown strength {sorted(unknown)[0]!r}; choose from {', '.join(STRENGTHS)}.")
        if return_flow and not self.config.predict_net:
            raise ValueError("this network has no PredictNet; set predict_net in its config to train one.")
