"""What a super-resolution step is judged by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .discriminator import Discriminator


def gan(discriminator: Discriminator, made: Tensor, truth: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
    """The vanilla GAN (Goodfellow et al. 2014; VF 4): losses of the generator and of the discriminator.

    Each reaches its own weights alone, so both can be minimised as one sum, in one pass and by one optimizer. The
    generator's is the non-saturating one, -log D(G(x)). step: of the run, for spectral normalisation.
    """
    weights = discriminator.normalised(step)
    judged = discriminator(made, weights, learns=False).float()
    fake, real = discriminator(made.detach(), weights).float(), discriminator(truth, weights).float()
    # softplus(-x) = -log sigmoid(x), softplus(x) = -log(1 - sigmoid(x))
    return F.softplus(-judged).mean(), (F.softplus(fake).mean() + F.softplus(-real).mean()) / 2


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """frames (n, c, h, w) looked up at p + flow(p): flow (n, 2, h, w) in pixels, (dx, dy), y down."""
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device), torch.arange(width, device=flow.device), indexing="ij"
    )
    to = torch.stack([(x + flow[:, 0] + 0.5) / width, (y + flow[:, 1] + 0.5) / height], dim=-1) * 2 - 1
    return F.grid_sample(frames, to.to(frames), mode="bilinear", padding_mode="border", align_corners=False)


def changes(clips: Tensor, flow: Tensor, valid: Tensor) -> Tensor:
    """How much a clip changes along its motion: the mean |x_t - warp(x_t+1)| where the flow is valid, by clip: (b,).

    clips: (b, t, c, h, w); flow (b, t-1, 2, h, w) forward, in pixels; valid (b, t-1, h, w) in [0, 1].
    """
    later = warp(clips[:, 1:].flatten(0, 1), flow.flatten(0, 1)).unflatten(0, flow.shape[:2])
    change = (clips[:, :-1] - later).abs().mean(dim=2) * valid
    return change.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp(min=1.0)


def temporal(made: Tensor, truth: Tensor, flow: Tensor, valid: Tensor) -> Tensor:
    """The change of the error along the motion, so that what is wrong does not shimmer as well; what changes in truth
    (light, what a warp blurs) costs nothing."""
    return changes(made - truth, flow, valid).mean()
