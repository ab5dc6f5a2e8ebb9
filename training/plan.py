"""How much memory a stage needs, worked out before anything is bought or begun: `dreamfactory train RUN --plan`.

Weights, gradients, optimizer and averages are counted from the network's shapes. Activations are counted by running one
round's forward and backward pass on torch's meta device, where tensors have sizes and no numbers, and following every
storage from its making to its end; layers compute in the run's precision and norms in float32, as under autocast, and
attention counts as fused. What a GPU's kernels and its allocator take for themselves is not in it: leave a tenth free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model_patches import Conditions, UNetConfig, VideoUNet
from ..model_patches.dtypes import DTYPES
from .config import RunConfig, StageConfig, UpscalerStageConfig, VideoStageConfig
from .live import Live
from .optimizer import state_bytes
from .start import Start
from .super_resolution import activations as upscaler
from .video import lora, models

GIB = 2**30
DOWNSCALE = 8  # of every codec here


class _Fused(torch.autograd.Function):
    """What fused attention keeps: its inputs, its result and one number a query and head."""

    @staticmethod
    def forward(context, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        sums = torch.empty(*q.shape[:2], heads, device=q.device, dtype=torch.float32)
        context.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(context, grad: Tensor):
        q, k, v, _, _ = context.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def fused_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options=None) -> Tensor:
    return _Fused.apply(q, k, v, heads)


class _Autocast:
    """torch.nn as autocast runs it: products in the weights' precision, norms in float32."""

    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(self.weight.dtype))

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(self.weight.dtype))

    class GroupNorm(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return torch.native_group_norm(
                x.float(), self.weight.float(), self.bias.float(), *_sizes(x), self.num_groups, self.eps
            )[0]

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(
                x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
            )


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x[0, 0].numel()


def activations(config: UNetConfig, stage: VideoStageConfig, dtype: torch.dtype, clips: int) -> int:
    """Peak bytes of one round's forward and backward pass, beside weights and their gradients."""
    unet = VideoUNet(config, operations=_Autocast, attention=fused_attention, dtype=dtype, device="meta")
    if stage.model.lora is not None:
        lora.inject(unet, stage.model.lora, 0)
    learns = models.trainable(unet, stage)
    for name, weight in unet.named_parameters():
        weight.requires_grad_(name in learns)
    unet.checkpoint_gradients(stage.model.gradient_checkpointing)
    unet.train()
    data = stage.data
    frames, height, width = data.frames, data.height // DOWNSCALE, data.width // DOWNSCALE

    def meta(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    given: dict = {"first_frame": meta(clips, config.in_channels, height, width)}
    if config.motion_text != "off":
        given["motion_text"] = meta(clips, 120, config.motion_dim)
    if config.image_projector is not None:
        projector = config.image_projector
        shape = (projector.embedding_dim,) if projector.kind == "linear" else (257, projector.embedding_dim)
        features = meta(clips, *shape)
    with_flow = stage.loss.flow_weight > 0
    gradients = sum(p.numel() * p.element_size() for p in unet.parameters() if p.requires_grad)
    with Live() as live:
        if config.image_projector is not None:
            given["image_tokens"] = unet.project_image(features)
        x, text = meta(clips * frames, config.in_channels, height, width), meta(clips, 77, config.context_dim)
        t = torch.zeros(clips, dtype=torch.long, device="meta")
        output = unet(x, t, Conditions(text, **given), num_frames=frames, return_flow=with_flow)
        output = output if with_flow else (output,)
        first, *more = [o.float().square().mean() for o in output]
        (first + sum(more)).backward()
    return max(0, live.peak - gradients)


def plan(
    config: RunConfig,
    stage: VideoStageConfig,
    network: UNetConfig,
    processes: int = 1,
    changed: frozenset[str] = frozenset(),
) -> dict[str, float]:
    """GiB of a stage by purpose, on each of so many GPUs (data-parallel: all but the batch is on every one).

    changed: weights that an earlier stage trained; frozen ones among them stay in float32.
    """
    unet = VideoUNet(network, device="meta")
    if stage.model.lora is not None:
        lora.inject(unet, stage.model.lora, 0)
    learns = models.trainable(unet, stage)
    trains = [p for n, p in unet.named_parameters() if n in learns]
    trained, state = sum(p.numel() for p in trains), state_bytes(stage.optim.optimizer, trains)
    frozen = sum(p.numel() for p in unet.parameters()) - trained
    kept = sum(p.numel() for n, p in unet.named_parameters() if n in changed and n not in learns)
    clips = _clips(stage, processes)
    active = activations(network, stage, DTYPES[config.precision], clips)
    return _table(config, stage, trained, frozen, kept, clips, active, state)


def plan_upscaler(config: RunConfig, stage: UpscalerStageConfig, processes: int = 1) -> dict[str, float]:
    """The same of a super-resolution stage."""
    clips = _clips(stage, processes)
    learns = upscaler.trained(stage)
    count, averaged = (sum(p.numel() for p in m.parameters()) for m in (learns, learns["network"]))
    active = upscaler.activations(stage, DTYPES[config.precision], clips)
    state = state_bytes(stage.optim.optimizer, list(learns.parameters()))
    return _table(config, stage, count, 0, 0, clips, active, state, averaged)


def _clips(stage: StageConfig, processes: int) -> int:
    return max(1, stage.optim.batch_size // (processes * stage.optim.accumulate))


def _table(
    config: RunConfig,
    stage: StageConfig,
    trained: int,
    frozen: int,
    kept: int,
    clips: int,
    active: int,
    state: int,
    averaged: int | None = None,
) -> dict[str, float]:
    averaged = trained if averaged is None else averaged
    dtype = DTYPES[config.precision]
    half = dtype.itemsize if config.precision != "fp32" else 0
    sizes = {
        "frozen weights": (frozen - kept) * dtype.itemsize + kept * 4,
        "trained weights, float32": trained * 4,
        f"their copies in {config.precision}": trained * half,
        "gradients, float32": trained * 4,
        f"optimizer ({stage.optim.optimizer})": state,
        "averaged weights, float32": averaged * 4 if stage.optim.ema else 0,
        f"activations, {clips} clip(s) a round": active,
    }
    sizes["in all"] = sum(sizes.values())
    return {"trained, M": trained / 1e6, "frozen, M": frozen / 1e6, **{k: v / GIB for k, v in sizes.items()}}


def networks(config: RunConfig) -> tuple[list[UNetConfig | None], str]:
    """Every stage's network (None of an upscaler), without its weights; and what was taken for granted.

    Raises TrainingError where it follows a file that is not there, and start.release does not say what that is.
    """
    start, source, found = Start(config.start), None, []
    follows = any(isinstance(stage, VideoStageConfig) and stage.model.preset == "start" for stage in config.stages)
    if follows and config.start.network is not None:
        source = start.config()
    for stage in config.stages:
        if isinstance(stage, VideoStageConfig):
            source = stage.model.network(source)
        found.append(source if isinstance(stage, VideoStageConfig) else None)
    told = f"{config.start.network} is not there; this goes by the preset {config.start.release}, its start.release."
    return found, told if follows and start.missing else ""


def show(config: RunConfig, processes: int = 1) -> str:
    """The plan of every stage, as a text."""
    (found, told), changed = networks(config), frozenset()
    lines = [told] if told else []
    for stage, network in zip(config.stages, found, strict=True):
        data = stage.data
        if isinstance(stage, UpscalerStageConfig):
            rows = plan_upscaler(config, stage, processes)
        else:
            assert isinstance(stage, VideoStageConfig)
            assert network is not None
            rows = plan(config, stage, network, processes, changed)
            if stage.model.lora is None:
                changed |= models.trainable(VideoUNet(network, device="meta"), stage)
        lines.append(
            f"{stage.name}: {data.frames} x {data.width}x{data.height}, batch {stage.optim.batch_size} on {processes} "
            f"GPU(s), {stage.optim.accumulate} round(s)"
        )
        for name, value in rows.items():
            unit = "M weights" if name.endswith(", M") else "GiB"
            lines.append(f"    {name.removesuffix(', M'):<34}{value:10.2f} {unit}")
    if isinstance(config.stages[0], UpscalerStageConfig):
        lines.append("The VAE is not in it, which passes one frame after the other.")
    else:
        lines.append("Frozen encoders and the VAE are not in it: with data.cache they leave before training.")
    return "\n".join(lines)
