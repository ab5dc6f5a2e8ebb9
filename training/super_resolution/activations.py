"""Memory of a super-resolution step, counted on the meta device for `dreamfactory train --plan`; see ../plan.py."""

from __future__ import annotations

import torch
from torch import nn

from ...model_patches.upscaling.rcan import RCAN
from ..config import UpscalerStageConfig
from ..live import Live
from .discriminator import Discriminator
from .losses import gan


def trained(stage: UpscalerStageConfig, dtype: torch.dtype = torch.float32) -> nn.ModuleDict:
    """What learns in a stage, without memory."""
    sizes = stage.upscaler
    with torch.device("meta"):
        network = RCAN(sizes.network)
        judge = {"discriminator": Discriminator(sizes.discriminator)} if stage.loss.gan_weight else {}
        return nn.ModuleDict({"network": network, **judge}).to(dtype)


def activations(stage: UpscalerStageConfig, dtype: torch.dtype, clips: int) -> int:
    """Peak bytes of one round's forward and backward pass, beside weights and their gradients."""
    learns = trained(stage, dtype)
    side, images = stage.upscaler.patch, clips * stage.data.frames
    gradients = sum(p.numel() * p.element_size() for p in learns.parameters())
    with Live() as live:
        small = torch.empty(images, 3, side // 4, side // 4, dtype=dtype, device="meta")
        truth = torch.empty(images, 3, side, side, dtype=dtype, device="meta")
        made = learns["network"](small)
        loss = (made.float() - truth.float()).abs().mean()
        if stage.loss.gan_weight:
            judge = learns["discriminator"]
            assert isinstance(judge, Discriminator)
            loss = loss + sum(gan(judge, made, truth))
        loss.backward()
    return max(0, live.peak - gradients)
