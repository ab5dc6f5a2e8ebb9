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

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import Attention, Factory, zero
from .blocks import UNetBlocks, output_head, residual_layer, spatial_transformer
from .conditions import Conditions, Embedded
from .config import UNetConfig
from .hooks import Hooks, per_row
from .image_adapter import image_projector, split_tokens
from .layout import layout
from .paca import LatentPyramid
from .predict_net import PredictNet
from .spatial import Downsample, ResBlock, embedding_mlp, timestep_embedding
from .temporal import TemporalTransformer


class VideoUNet(UNetBlocks):
    """The network. `config` says its shape; operations, attention, dtype and device are the host's to choose."""

    schedule: dict | None = None  # the noise schedule the weights were trained with, as plain data
    report: object | None = None  # what a conversion in memory did (converters.Report)
    input_blocks: Any  # an nn.ModuleList of nn.ModuleLists, as output_blocks

    def __init__(
        self,
        config: UNetConfig,
        *,
        operations: Any = nn,
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
        conditions: Conditions,
        *,
        num_frames: int,
        hooks: Hooks | None = None,
        return_flow: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict what the schedule asks for (noise, v or x0) from noisy latents.

        x: (b*t, in_channels, h, w) noisy latents, frames in the batch, any h and w. timesteps: (b,) or (b*t,) in
        [0, 1000). num_frames: t. hooks: what a host attached to this pass; they are used up by it.

        Returns (b*t, out_channels, h, w); with return_flow also PredictNet's (b*t, flow_channels, h, w).
        """
        self._check(x, num_frames, return_flow)
        hooks = Hooks() if hooks is None else hooks
        hooks.begin(x)
        conditions = conditions.for_clips(x.shape[0] // num_frames, num_frames)
        cond = self._embed(x, timesteps, conditions, num_frames, hooks)
        latents = x
        if self.config.first_frame_concat != "off":
            x = torch.cat([x, self._concat_frames(x, num_frames, conditions)], dim=1)

        plan, temporal_skip = layout(self.config), None
        hooks.note(block=("input", 0))
        x = self.input_blocks[0][0](x)
        if self.config.init_temporal and not cond.still:
            x = x + self.init_temporal(x, cond.frames, cond.frame_index, options=cond.options)
        x, skip = hooks.after_input(x)
        skips = [skip]
        for position, modules in zip(plan.inputs, self.input_blocks[1:], strict=True):
            hooks.note(block=("input", position.index))
            if position.downsample:
                x = modules[0](x)
            else:
                x, temporal_skip = self.run(self.layer, position, modules, x, temporal_skip, cond=cond)
            x, skip = hooks.after_input(x)
            skips.append(skip)
        hooks.note(block=("middle", 0))
        x, temporal_skip = self.run(self._middle, x, temporal_skip, cond=cond)
        x = hooks.after_middle(x, latents, cond.timestep, cond.text, timesteps.flatten())

        flow: Tensor | None = None
        if return_flow:
            flow = self.predict_net(x, list(skips), temporal_skip, replace(cond, hooks=hooks.without_patches()))
        output = self.out(self.decode(x, skips, temporal_skip, cond))
        return output if flow is None else (output, flow)

    def project_image(self, features: Tensor) -> Tensor:
        """Image features of the vision encoder -> image tokens (b, n, image_token_dim); once per clip."""
        return self.image_projector(features)

    def start_predict_net(self) -> None:
        """Copy the decoder into PredictNet, as FD initialises it; its head stays as it is (zero)."""
        decoder = {k: v for k, v in self.state_dict().items() if k.split(".")[0] not in ("out", "predict_net")}
        own = self.predict_net.state_dict()
        self.predict_net.load_state_dict({k: decoder.get(k, v) for k, v in own.items()})

    # -- parts of forward -------------------------------------------------------------------------------------

    def _middle(self, x: Tensor, temporal_skip: Tensor | None, cond: Embedded):
        first, centre, last = layout(self.config).middle
        x = self.middle_block[0](x, cond.timestep)
        x, temporal_skip = self.convolve_in_time(first, x, temporal_skip, cond)
        x = self.attend_in_space(centre, self.middle_block[1], x, cond)
        x, temporal_skip = self.attend_in_time(centre, x, temporal_skip, cond)
        x = self.middle_block[2](x, cond.timestep)
        return self.convolve_in_time(last, x, temporal_skip, cond)

    def _embed(self, x: Tensor, timesteps: Tensor, given: Conditions, frames: int, hooks: Hooks) -> Embedded:
        config, dtype = self.config, x.dtype
        motion, tokens, pyramid = given.motion_text, given.image_tokens, None
        timestep = self._embed_time(x, timesteps, given.frame_rate, frames, hooks)
        if tokens is not None:
            tokens = split_tokens(tokens.to(dtype), frames, config.image_tokens_per_frame)
        if config.paca and given.first_frame is not None and given.strengths.get("paca", 1.0) != 0:
            pyramid = self.paca_pyramid(given.first_frame.to(dtype))
        return Embedded(
            timestep=timestep,
            text=given.text.to(dtype),
            frames=frames,
            still=frames == 1 if given.still is None else given.still,
            frame_index=torch.arange(frames, device=x.device) if given.frame_index is None else given.frame_index,
            motion_text=None if motion is None else motion.to(dtype),
            image_tokens=tokens,
            pyramid=pyramid,
            strengths=given.strengths,
            swap_windows=given.swap_windows,
            hooks=hooks,
        )

    def _embed_time(
        self, x: Tensor, timesteps: Tensor, frame_rate: Tensor | float | None, frames: int, hooks: Hooks
    ) -> Tensor:
        """(b*t, 4*model_channels): the timestep, and the frame rate where the network was told it."""
        config, clips = self.config, x.shape[0] // frames
        embedding = self.time_embed(timestep_embedding(timesteps.flatten(), config.model_channels).to(x.dtype))
        embedding = per_row(embedding.expand(max(clips, embedding.shape[0]), -1), x)
        embedding = hooks.after_embedding(embedding, config.model_channels)
        if config.frame_rate_embedding == "off":
            return embedding
        rate = config.frame_rate_default if frame_rate is None else frame_rate
        # A number is filled in on the device: a copy from the CPU would stop it, and no CUDA graph holds one.
        rate = rate.to(x.device) if isinstance(rate, Tensor) else torch.full((1,), float(rate), device=x.device)
        rate = self.frame_rate_embedding(timestep_embedding(rate.flatten(), config.model_channels).to(x.dtype))
        return embedding + per_row(rate.expand(max(clips, rate.shape[0]), -1), x)

    def _concat_frames(self, x: Tensor, frames: int, conditions: Conditions) -> Tensor:
        """The extra input channels: the first frame repeated, or the two ends with zeros between."""
        if conditions.first_frame is None:
            return torch.zeros_like(x)
        first = conditions.first_frame.to(x)
        if self.config.first_frame_concat == "repeat":
            return repeat(first, "b c h w -> (b t) c h w", t=frames)
        clip = torch.zeros_like(x).unflatten(0, (-1, frames))
        clip[:, -1] = first if conditions.last_frame is None else conditions.last_frame.to(x)
        clip[:, 0] = first
        return rearrange(clip, "b t c h w -> (b t) c h w")

    def _check(self, x: Tensor, frames: int, return_flow: bool) -> None:
        if frames < 1 or x.shape[0] % frames:
            raise ValueError(f"{x.shape[0]} latents do not divide into clips of {frames} frames.")
        if x.shape[1] != self.config.in_channels:
            raise ValueError(f"latents have {x.shape[1]} channels; this network takes {self.config.in_channels}.")
        if return_flow and not self.config.predict_net:
            raise ValueError("this network has no PredictNet; set predict_net in its config to train one.")
