"""One training step's loss, as a module: the papers' objectives on a batch, nothing of loops or files.

L = E ||target - network(x_t, t, c)||^2  [+ gamma E ||f - p(x_t, t, c)||^2]      FD Eq. 7 and 4

Every clip's random numbers come from a generator of its own, seeded by (seed, step, row), so that a batch means the
same however many processes and rounds share it, and a resumed run draws what the killed one would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ...model_patches import Conditions, VideoUNet
from ...pipelines.bundle import Codec
from ...schedulers import NoiseSchedule, min_snr_weights, snr
from ..batch import Batch
from ..config import DropoutConfig, LossConfig
from ..random import generator


@dataclass
class Draws:
    """The random numbers of some clips."""

    t: Tensor  # (b,) timesteps: one a clip, its frames are noised alike
    noise: Tensor  # (b, t, c, h, w)
    drop_text: Tensor  # (b,) bool, whether a condition is left out
    drop_motion: Tensor
    drop_image: Tensor
    known: Tensor | None = None  # (b,) how many of a clip's first frames are given without noise; None: of no clip
    start: Tensor | None = None  # (b,) frames between the picture and the clip


@dataclass(frozen=True)
class Continued:
    """Clips that go on from others: a share of them, 1 to `frames` first frames given, up to `reach` frames before."""

    share: float
    frames: int
    reach: int


def draw(
    seed: int,
    step: int,
    rows: Sequence[int],
    latents: tuple[int, ...],
    timesteps: int,
    dropout: DropoutConfig,
    continued: Continued | None = None,
) -> Draws:
    """latents: shape (t, c, h, w) of one clip. On the CPU, so that the numbers are the same on every device."""
    t, noise, drops, known, start = [], [], [], [], []
    for row in rows:
        own = generator(seed, step, row)
        text, motion, captions, image, everything = torch.rand(5, generator=own).tolist()
        both = captions < dropout.captions or everything < dropout.all
        no_image = image < dropout.image or everything < dropout.all
        drops.append((text < dropout.text or both, motion < dropout.motion or both, no_image))
        t.append(torch.randint(timesteps, (), generator=own))
        noise.append(torch.randn(latents, generator=own))
        if continued is not None:
            most = max(1, min(continued.frames, latents[0] - 1))  # of a short bucket one frame at least is to learn
            given = int(torch.randint(1, most + 1, (), generator=own))
            ahead = int(torch.randint(continued.reach + 1, (), generator=own))
            goes_on = float(torch.rand((), generator=own)) < continued.share
            known.append(given if goes_on else 0)
            start.append(ahead if goes_on else 0)
    more = (torch.tensor(known), torch.tensor(start)) if continued is not None else ()
    return Draws(torch.stack(t), torch.stack(noise), *torch.tensor(drops).unbind(1), *more)


@dataclass(frozen=True)
class Frozen:
    """Parts that do not train: no module, so that nothing shards, averages or saves them with what does."""

    codec: Codec
    encoders: Mapping[str, nn.Module]


class DiffusionObjective(nn.Module):
    """The network, the encoders that train with it, and the frozen ones, as one module with the loss as its output.

    encoders: "text", "motion", "image" as the network reads them; those without trainable weights are kept out of the
    module's own weights. codec: images to latents, frozen. grey: the image features of a grey picture.
    """

    def __init__(
        self,
        unet: VideoUNet,
        codec: Codec,
        encoders: Mapping[str, nn.Module],
        loss: LossConfig,
        dropout: DropoutConfig,
        grey: Tensor | None = None,
    ) -> None:
        super().__init__()
        trains = {k: any(p.requires_grad for p in m.parameters()) for k, m in encoders.items()}
        self.unet = unet
        self.trained = nn.ModuleDict({k: m for k, m in encoders.items() if trains[k]})
        self.frozen = Frozen(codec, {k: m for k, m in encoders.items() if not trains[k]})
        self.loss, self.dropout, self.grey = loss, dropout, grey

    def encoder(self, name: str) -> nn.Module | None:
        return self.trained[name] if name in self.trained else self.frozen.encoders.get(name)

    def forward(self, batch: Batch, draws: Draws, schedule: NoiseSchedule) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) and its parts, means over the clips."""
        latents, frames = self.latents(batch)
        drop = draws.drop_image.to(latents.device)
        if frames == 1:  # a still is not shown to itself
            drop = torch.ones_like(drop)
        each = repeat(draws.t, "b -> (b t)", t=frames)
        noise = draws.noise.flatten(0, 1).to(latents)
        x_t, target = schedule.add_noise(latents, noise, each), schedule.target(latents, noise, each)
        timesteps, learns = draws.t, None
        if draws.known is not None and frames > 1:
            learns = torch.arange(frames) >= draws.known.cpu()[:, None]  # (b, t)
            timesteps = each * learns.flatten().to(each)
            x_t = torch.where(learns.flatten()[:, None, None, None].to(x_t.device), x_t, latents)

        with_flow = self.loss.flow_weight > 0 and frames > 1
        output = self.unet(
            x_t,
            timesteps.to(latents.device),
            Conditions(
                text=self.tokens("text", batch.text),
                motion_text=self.tokens("motion", batch.motion),
                first_frame=self.first_frame(batch, latents, frames, drop),
                image_tokens=self.image_tokens(batch, drop),
                frame_rate=batch.frame_rate,
                frame_index=self.frame_index(draws, frames, latents.device),
            ),
            num_frames=frames,
            return_flow=with_flow,
        )
        output, flow = output if with_flow else (output, None)
        error = rearrange((output.float() - target.float()).square(), "(b t) c h w -> b t (c h w)", t=frames).mean(2)
        if learns is None:
            error = error.mean(1)
        else:
            learns = learns.to(error)
            error = (error * learns).sum(1) / learns.sum(1)
        if self.loss.min_snr_gamma is not None:
            weights = min_snr_weights(snr(schedule.alphas_cumprod), schedule.prediction, self.loss.min_snr_gamma)
            error = error * weights[draws.t.cpu()].to(error)
        total = error.mean()
        parts = {"diffusion": total.detach()}
        if flow is not None:
            true, weight = batch.moves
            moved = flow_loss(flow, true / self.loss.flow_scale, weight)
            parts["flow"] = moved.detach()
            total = total + self.loss.flow_weight * moved
        return total, parts

    def latents(self, batch: Batch) -> tuple[Tensor, int]:
        """(b*t, c, h, w) float32 and t."""
        if batch.latents is not None:
            return batch.latents.flatten(0, 1).float(), batch.latents.shape[1]
        return self.encoded(batch.pixels.flatten(0, 1)), batch.pixels.shape[1]

    def encoded(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1] -> latents, float32."""
        codec = self.frozen.codec
        pixels = pixels.to(next(codec.parameters())) * 2 - 1
        # Out of a mixed-precision context: a VAE in half precision leaves marks in what the network learns.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            return codec.encode(pixels).float()

    @overload
    def tokens(self, name: Literal["text"], captions: list[str] | Tensor) -> Tensor: ...  # every network reads it

    @overload
    def tokens(self, name: str, captions: list[str] | Tensor | None) -> Tensor | None: ...

    def tokens(self, name: str, captions: list[str] | Tensor | None) -> Tensor | None:
        encoder = self.encoder(name)
        if captions is None or isinstance(captions, Tensor):
            return captions
        return None if encoder is None else encoder(captions)

    def first_frame(self, batch: Batch, latents: Tensor, frames: int, drop: Tensor) -> Tensor:
        """The picture: the clip's first frame, or one from before it."""
        if batch.picture is None:
            first = rearrange(latents, "(b t) c h w -> b t c h w", t=frames)[:, 0]
        else:
            first = batch.picture.float() if batch.latents is not None else self.encoded(batch.picture)
        if self.dropout.image_means == "grey" and frames > 1:
            return first
        return first.masked_fill(drop[:, None, None, None], 0)

    @staticmethod
    def frame_index(draws: Draws, frames: int, device: torch.device) -> Tensor | None:
        """Frames are counted from the picture, also where it lies before the clip."""
        if draws.start is None or frames == 1:
            return None
        return (draws.start.cpu()[:, None] + torch.arange(frames)).to(device)

    def image_tokens(self, batch: Batch, drop: Tensor) -> Tensor | None:
        features, encoder = batch.image, self.encoder("image")
        if features is None and encoder is not None and batch.frames is not None:
            features = encoder(batch.frames[:, 0] if batch.picture is None else batch.picture)
        if features is None or self.unet.config.image_projector is None:
            return None
        features = features.float()  # a cache keeps half precision
        here = drop.reshape(-1, *[1] * (features.ndim - 1))
        if self.dropout.image_means == "grey":
            assert self.grey is not None  # it was made when the stage began
            return self.unet.project_image(torch.where(here, self.grey.to(features), features))
        return self.unet.project_image(features).masked_fill(drop[:, None, None], 0)


def flow_loss(predicted: Tensor, flow: Tensor, weight: Tensor) -> Tensor:
    """||f - p||^2 where the flow is valid (FD Eq. 4), the mean over clips of each one's mean.

    predicted: (b*t, 2, h, w); flow: (b, t-1, 2, h, w) and weight (b, t-1, h, w): the last frame of a clip has none.
    A clip's own mean, not the batch's: so that a batch shared by processes has the same loss as an undivided one.
    """
    predicted = rearrange(predicted, "(b t) c h w -> b t c h w", b=flow.shape[0])[:, :-1].float()
    error = (predicted - flow).square().mean(dim=2) * weight
    return (error.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1.0)).mean()
