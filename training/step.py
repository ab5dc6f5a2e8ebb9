"""One training step's loss, as a function: the papers' objectives on a batch, nothing of loops or files.

L = E ||target - network(x_t, t, c)||^2  [+ gamma E ||f - p(x_t, t, c)||^2]      FD Eq. 7 and 4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ..schedulers import NoiseSchedule, min_snr_weights, snr
from .batch import Batch
from .config import DropoutConfig, LossConfig


@dataclass
class Models:
    """The network and what feeds it. Encoders may be trained or frozen; the codec is always frozen."""

    unet: nn.Module
    codec: nn.Module
    text: nn.Module
    motion: nn.Module | None
    image: nn.Module | None

    def trained(self) -> dict[str, nn.Module]:
        """The modules with weights to train, by name."""
        named = {"unet": self.unet, "text": self.text, "motion": self.motion, "image": self.image}
        return {k: m for k, m in named.items() if m is not None and any(p.requires_grad for p in m.parameters())}


def training_loss(
    models: Models,
    schedule: NoiseSchedule,
    batch: Batch,
    generator: torch.Generator,
    dropout: DropoutConfig,
    loss: LossConfig,
) -> tuple[Tensor, dict[str, float]]:
    """The loss (a scalar with gradient) and its parts as numbers. All draws come from `generator`."""
    size, frames = batch.frames.shape[:2]

    def draw(chance: float) -> Tensor:
        return torch.rand(size, generator=generator) < chance

    captionless = draw(dropout.captions)
    drop_text, drop_motion = draw(dropout.text) | captionless, draw(dropout.motion) | captionless
    drop_image = draw(dropout.image)

    frames_in = batch.frames.to(next(models.unet.parameters(), batch.frames))
    with torch.no_grad():
        latents = models.codec.encode(rearrange(frames_in, "b t c h w -> (b t) c h w") * 2 - 1)
    first_frame = rearrange(latents, "(b t) c h w -> b t c h w", t=frames)[:, 0].clone()
    first_frame[drop_image] = 0
    text = models.text(_without(batch.text, drop_text))
    motion = None if models.motion is None else models.motion(_without(batch.motion, drop_motion))
    tokens = None
    if models.image is not None:
        tokens = models.unet.project_image(models.image(frames_in[:, 0]))
        tokens = tokens * (~drop_image).to(tokens)[:, None, None]

    # One timestep a clip: its frames are noised alike.
    # Drawn on the CPU whatever the device, so that a step's numbers are the same everywhere.
    t = torch.randint(len(schedule.alphas_cumprod), (size,), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    each = repeat(t, "b -> (b t)", t=frames)
    x_t, target = schedule.add_noise(latents, noise, each), schedule.target(latents, noise, each)

    with_flow = loss.flow_weight > 0
    output = models.unet(
        x_t,
        t,
        text,
        num_frames=frames,
        motion_text=motion,
        first_frame=first_frame,
        image_tokens=tokens,
        return_flow=with_flow,
    )
    output, flow = output if with_flow else (output, None)
    error = (output.float() - target).square().mean(dim=(1, 2, 3))
    if loss.min_snr_gamma is not None:
        weights = min_snr_weights(snr(schedule.alphas_cumprod), schedule.prediction, loss.min_snr_gamma)
        error = error * weights[each.cpu()].to(error)
    diffusion = error.mean()
    parts = {"diffusion": diffusion.item()}
    total = diffusion
    if with_flow:
        moved = flow_loss(flow, batch, frames)
        parts["flow"] = moved.item()
        total = total + loss.flow_weight * moved
    return total, parts


def flow_loss(predicted: Tensor, batch: Batch, frames: int) -> Tensor:
    """||f - p||^2 in latent pixels per frame, where the flow is valid (FD Eq. 4). predicted: (b*t, 2, h, w)."""
    target, valid = batch.flow.to(predicted.device), batch.flow_valid.to(predicted.device).float()
    ratio = target.shape[-1] / predicted.shape[-1]
    target = F.adaptive_avg_pool2d((target * valid[:, :, None]).flatten(0, 1), predicted.shape[-2:]) / ratio
    weight = F.adaptive_avg_pool2d(valid.flatten(0, 1)[:, None], predicted.shape[-2:])
    # Averages over a cell count its valid pixels only.
    target = target / weight.clamp(min=1e-6)
    predicted = rearrange(predicted, "(b t) c h w -> b t c h w", t=frames)[:, :-1].flatten(0, 1)
    error = (predicted.float() - target).square().mean(dim=1, keepdim=True)
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


def _without(captions: list[str], drop: Tensor) -> list[str]:
    return ["" if gone else caption for caption, gone in zip(captions, drop.tolist(), strict=True)]
