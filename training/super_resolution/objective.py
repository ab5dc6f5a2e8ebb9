"""One step of super-resolution, as a module: VideoFactory sec. 4, "Super-Resolution Towards Higher Quality".

    "an original video frame is downsampled and degraded using our model, and the SR network attempts to perform SR on
    the resulting low-resolution image"

L = |G(x) - y|  [+ w_gan (L_G + L_D)]  [+ w_temporal |d(G(x) - y)|], d the change along the motion
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...model_patches.upscaling.rcan import RCAN
from ...pipelines.bundle import Codec
from ..batch import Batch
from ..config import UpscalerLossConfig
from ..random import generator
from ..upscaler_config import DegradationConfig
from .degradation import degrade
from .discriminator import Discriminator
from .losses import gan, temporal


class SuperResolution(nn.Module):
    """The network and, where there is one, its discriminator. codec: a frozen VAE whose damage is to be undone."""

    def __init__(
        self,
        network: RCAN,
        discriminator: Discriminator | None,
        codec: Codec,
        degradation: DegradationConfig,
        loss: UpscalerLossConfig,
    ) -> None:
        super().__init__()
        self.network, self.discriminator = network, discriminator
        self.frozen: dict[str, Codec] = {"codec": codec}  # no weights of this module: nothing averages or saves them
        self.degradation, self.loss = degradation, loss

    def forward(self, batch: Batch, seeds: Sequence[tuple], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) and its parts. batch.frames: (b, t, 3, h, w), the truth; seeds: of each clip's damage;
        batch.flow and flow_weight in pixels of the truth, where the temporal term counts."""
        clips = batch.pixels
        truth = clips.flatten(0, 1)
        made = self.network(self.damaged(clips, seeds)).float()
        total = (made - truth).abs().mean()
        parts = {"l1": total.detach()}
        if self.loss.temporal_weight and batch.flow is not None:
            flow, valid = batch.moves
            steady = temporal(made.view(clips.shape), clips, flow, valid)
            parts["temporal"] = steady.detach()
            total = total + self.loss.temporal_weight * steady
        if self.discriminator is not None:
            fools, judges = gan(self.discriminator, made, truth, step)
            parts |= {"generator": fools.detach(), "discriminator": judges.detach()}
            # The discriminator's own loss has no weight: it reaches no other weights, and Adam takes no notice of its
            # size. (optim.clip does: its norm is of all that learns.)
            total = total + self.loss.gan_weight * fools + judges
        return total, parts

    def damaged(self, clips: Tensor, seeds: Sequence[tuple]) -> Tensor:
        """(b, t, 3, h, w) -> (b*t, 3, h/scale, w/scale), each clip damaged in its own way throughout."""
        small = [
            degrade(clip, self.degradation, generator(*seed), self.network.scale, self.frozen["codec"])
            for clip, seed in zip(clips, seeds, strict=True)
        ]
        return torch.cat(small)
