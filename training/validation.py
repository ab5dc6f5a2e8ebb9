"""Seeing a run learn: the same clips, noise and timesteps every time.

The loss is measured at fixed timesteps on clips kept out of training, so that two numbers of one run can be compared;
and first frames of such clips are brought to life with fixed noise, as one mp4 and one sheet.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..pipelines.sampling import Prompt, sample
from ..pipelines.sheets import clip_sheet
from ..pipelines.video_files import write_video
from .batch import Batch
from .config import OutputConfig, StageConfig
from .data.source import Source
from .data.tiny_measure import psnr
from .evaluation.demo import wall
from .step import Draws, Learner, generator

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
AT_ONCE = 8  # clips
SHOWN = 12


class Validation:
    """Validation clips of a stage. empty: tokens of the empty caption by encoder, where captions come as tokens."""

    def __init__(
        self,
        sources: dict[str, Source],
        stage: StageConfig,
        output: OutputConfig,
        empty: dict[str, Tensor],
        seed: int,
    ) -> None:
        self.stage, self.output, self.empty, self.seed = stage, output, empty, seed
        self.source, self.bucket, self.examples = None, None, []
        for source in sources.values():
            examples = source.examples(output.validation_clips)
            if examples:
                # Of one size, so that they make one sheet: that of most of them.
                sizes = [e.bucket for e in examples]
                self.bucket = max(sorted(set(sizes)), key=sizes.count)
                self.source, self.examples = source, [e for e in examples if e.bucket == self.bucket]
                break

    @property
    def frames(self) -> int:
        """Frames of a clip that the network sees."""
        return min(self.bucket.frames, self.stage.data.frames)

    def _batch(self, rows: list[int]) -> Batch:
        batch = self.source.example_batch(self.bucket, [self.examples[r].index for r in rows])
        return batch.window(torch.zeros(len(rows), dtype=torch.long), self.frames)

    def __bool__(self) -> bool:
        return bool(self.examples)

    @torch.no_grad()
    def loss(self, learner: Learner, device: torch.device) -> dict[str, float]:
        """The mean loss at each quantile of the timesteps, nothing dropped; keys "loss", "loss@0.1" …"""
        schedule = self.stage.noise.build(self.frames, self.bucket.height, self.bucket.width)
        # Every clip by itself counts alike, whatever is read at once.
        sums: dict[str, float] = {}
        for rows in self._rows():
            batch = self._batch(rows)
            latents = _latent_shape(batch, learner)
            for quantile in QUANTILES:
                t = torch.full((len(rows),), int(quantile * len(schedule.alphas_cumprod)))
                noise = [torch.randn(latents, generator=generator(self.seed, "validation", r, quantile)) for r in rows]
                keep = torch.zeros(len(rows), dtype=torch.bool)
                _, parts = learner(batch.to(device), Draws(t, torch.stack(noise), keep, keep, keep), schedule)
                for name, value in parts.items():
                    name = "loss" if name == "diffusion" else name
                    share = value.item() * len(rows) / len(self.examples)
                    sums[f"{name}@{quantile}"] = sums.get(f"{name}@{quantile}", 0.0) + share
                    sums[name] = sums.get(name, 0.0) + share / len(QUANTILES)
        return sums

    @torch.no_grad()
    def sample(self, learner: Learner, device: torch.device, step: int, folder: Path) -> tuple[dict[str, float], Path]:
        """Clips of fixed noise; measures, and the sheet. The mp4 lies beside it under the same name."""
        made, truth = [], []
        for rows in self._rows():
            batch = self._batch(rows)
            clips, true = self._clips(learner, batch.to(device), rows)
            made.append(clips)
            truth.append(true)
        clips, true = torch.cat(made), torch.cat(truth)
        scores = {
            "first_frame_psnr": psnr(clips[:, 0], true[:, 0]).mean().item(),
            "video_psnr": psnr(clips, true).mean().item(),
        }
        if hasattr(self.source, "measure"):
            scores |= self.source.measure(clips, [e.index for e in self.examples])
        captions = [e.motion for e in self.examples[:SHOWN]]
        sheet = folder / f"step-{step:09d}.png"
        clip_sheet(sheet, clips[:SHOWN], captions, title=f"step {step}: clips kept out of training")
        write_video(sheet.with_suffix(".mp4"), wall(clips[:SHOWN]), 8, settings={"step": step, "captions": captions})
        return scores, sheet

    def _clips(self, learner: Learner, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """(b, t, 3, h, w) in [0, 1] made, and the true ones, as the codec shows them."""
        unet, codec = learner.unet, learner.frozen["codec"]
        latents, frames = learner.latents(batch)
        shape = latents.shape[1:]
        keep = torch.zeros(len(rows), dtype=torch.bool, device=latents.device)
        tokens = learner.image_tokens(batch, keep)
        blank = None
        if tokens is not None and learner.dropout.image_means == "grey":
            blank = learner.image_tokens(batch, ~keep)
        empty = [""] * len(rows)
        config = unet.config
        prompt = Prompt(
            text=learner.tokens("text", batch.text),
            uncond_text=self._empty("text", learner, empty),
            motion=None if config.motion_text == "off" else learner.tokens("motion", batch.motion),
            uncond_motion=None if config.motion_text == "off" else self._empty("motion", learner, empty),
            first_frame=learner.first_frame(batch, latents, frames, keep),
            image_tokens=tokens,
            uncond_image_tokens=blank,
            frame_rate=None if batch.frame_rate is None else float(batch.frame_rate[0]),
        )
        noise = [torch.randn((frames, *shape), generator=generator(self.seed, "sample", r)) for r in rows]
        noise = torch.cat(noise).to(latents)
        schedule = self.stage.noise
        made = sample(
            unet,
            schedule.build(frames, self.bucket.height, self.bucket.width),
            prompt,
            noise,
            frames,
            steps=self.output.validation_steps,
            guidance_scale=self.output.guidance_scale,
            guidance_rescale=schedule.guidance_rescale,
            spacing=schedule.spacing,
        )
        like = next(codec.parameters())

        def pixels(z: Tensor) -> Tensor:
            with torch.autocast(z.device.type, enabled=False):
                decoded = codec.decode(z.to(like)).float().cpu()
            return rearrange((decoded + 1) / 2, "(b t) c h w -> b t c h w", t=frames).clamp(0, 1)

        return pixels(made), batch.frames.cpu() if batch.frames is not None else pixels(latents)

    def _empty(self, name: str, learner: Learner, captions: list[str]) -> Tensor:
        if name in self.empty:
            device = next(learner.unet.parameters()).device
            return self.empty[name].to(device).expand(len(captions), -1, -1)
        return learner.encoder(name)(captions)

    def _rows(self) -> list[list[int]]:
        rows = list(range(len(self.examples)))
        return [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]


def _latent_shape(batch: Batch, learner: Learner) -> tuple[int, ...]:
    """(t, c, h, w) of one clip."""
    if batch.latents is not None:
        return tuple(batch.latents.shape[1:])
    codec = learner.frozen["codec"]
    _, t, _, h, w = batch.frames.shape
    return t, codec.latent_channels, h // codec.downscale, w // codec.downscale
