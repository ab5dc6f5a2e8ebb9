"""Seeing a run learn: the same clips, noise and timesteps every time.

The loss is measured at fixed timesteps on clips kept out of training, so that two numbers of one run can be compared;
and first frames of such clips, and prompts of one's own, are brought to life with fixed noise, on a sheet beside the
truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ...metrics.image import psnr
from ...pipelines.image_to_video import reads_picture
from ...pipelines.media.files import write_video
from ...pipelines.media.sheets import comparison_sheet, spaced, video_grid
from ...pipelines.sampling import Prompt, sample
from ..batch import Batch, Bucket
from ..config import OutputConfig, VideoStageConfig
from ..data.source import Example, Measuring, Source
from ..random import generator
from .objective import DiffusionObjective, Draws
from .prompts import Asked

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
AT_ONCE = 8  # clips
SHOWN = 12
ACROSS = 4  # frames of a clip on the sheet


class Validation:
    """Validation clips of a stage, and prompts of one's own.

    empty: tokens of the empty caption by encoder, where captions come as tokens.
    """

    source: Source  # of the examples, where there are any
    bucket: Bucket

    def __init__(
        self,
        sources: Mapping[str, Source],
        stage: VideoStageConfig,
        output: OutputConfig,
        empty: dict[str, Tensor],
        seed: int,
        prompts: Sequence[Asked] = (),
    ) -> None:
        self.stage, self.output, self.empty, self.seed, self.prompts = stage, output, empty, seed, prompts
        self.examples: list[Example] = []
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
        return bool(self.examples or self.prompts)

    @torch.no_grad()
    def loss(self, objective: DiffusionObjective, device: torch.device) -> dict[str, float]:
        """The mean loss at each quantile of the timesteps, nothing dropped; keys "loss", "loss@0.1" …"""
        if not self.examples:
            return {}
        schedule = self.stage.noise.build(self.frames, self.bucket.height, self.bucket.width)
        # Every clip by itself counts alike, whatever is read at once.
        sums: dict[str, float] = {}
        for rows in self._rows():
            batch = self._batch(rows)
            latents = _latent_shape(batch, objective)
            for quantile in QUANTILES:
                t = torch.full((len(rows),), int(quantile * len(schedule.alphas_cumprod)))
                noise = [torch.randn(latents, generator=generator(self.seed, "validation", r, quantile)) for r in rows]
                keep = torch.zeros(len(rows), dtype=torch.bool)
                _, parts = objective(batch.to(device), Draws(t, torch.stack(noise), keep, keep, keep), schedule)
                for name, value in parts.items():
                    name = "loss" if name == "diffusion" else name
                    share = value.item() * len(rows) / len(self.examples)
                    sums[f"{name}@{quantile}"] = sums.get(f"{name}@{quantile}", 0.0) + share
                    sums[name] = sums.get(name, 0.0) + share / len(QUANTILES)
        return sums

    @torch.no_grad()
    def sample(
        self, objective: DiffusionObjective, device: torch.device, step: int, folder: Path
    ) -> tuple[dict[str, float], Path]:
        """Clips of fixed noise; measures, and the sheet: first frame, truth, sample. mp4s lie beside it.

        The mp4 of validation clips shows truth and sample side by side.
        """
        sheet, rows, captions, scores = folder / f"step-{step:09d}.png", [], [], {}
        if self.examples:
            clips, true = self._examples(objective, device)
            scores = self._measured(clips, true)
            captions = [e.motion for e in self.examples[:SHOWN]]
            rows = [[t[:1], spaced(t, ACROSS), spaced(c, ACROSS)] for c, t in zip(clips[:SHOWN], true, strict=False)]
            pairs = torch.cat([true, clips], -1)[:SHOWN]
            write_video(sheet.with_suffix(".mp4"), video_grid(pairs), 8, settings={"step": step, "captions": captions})
        asked = [self._asked(objective, device, number) for number in range(len(self.prompts))]
        if asked:
            own = [prompt.caption for prompt in self.prompts]
            rows += [
                [None if p.picture is None else p.picture[None], None, spaced(clip, ACROSS)]
                for p, clip in zip(self.prompts, asked, strict=True)
            ]
            settings = {"step": step, "captions": own}
            write_video(
                sheet.with_name(f"{sheet.stem}-prompts.mp4"), video_grid(torch.stack(asked)), 8, settings=settings
            )
            captions = [*captions, *(f"your prompt: {caption}" for caption in own)]
        heads = ["first frame", "truth", "sample"]
        used = [k for k in range(3) if any(row[k] is not None for row in rows)]
        if not reads_picture(objective.unet.config) and 0 in used:
            used.remove(0)
        rows = [[row[k] for k in used] for row in rows]
        title = f"step {step}: clips kept out of training" if self.examples else f"step {step}"
        comparison_sheet(sheet, rows, captions, heads=[heads[k] for k in used], title=title)
        return scores, sheet

    def _examples(self, objective: DiffusionObjective, device: torch.device) -> tuple[Tensor, Tensor]:
        """(b, t, 3, h, w) of all validation clips: made, and true."""
        made, truth = [], []
        for rows in self._rows():
            clips, true = self._clips(
                objective, self._batch(rows).to(device), self.bucket, [("sample", r) for r in rows]
            )
            made.append(clips)
            truth.append(true)
        return torch.cat(made), torch.cat(truth)

    def _measured(self, clips: Tensor, true: Tensor) -> dict[str, float]:
        scores = {
            "first_frame_psnr": psnr(clips[:, 0], true[:, 0]).mean().item(),
            "video_psnr": psnr(clips, true).mean().item(),
        }
        if isinstance(self.source, Measuring):
            scores |= self.source.measure(clips, [e.index for e in self.examples])
        return scores

    def _asked(self, objective: DiffusionObjective, device: torch.device, number: int) -> Tensor:
        """(t, 3, h, w) of one of one's own prompts."""
        prompt = self.prompts[number]
        made, _ = self._clips(objective, prompt.batch.to(device), prompt.bucket, [("prompt", number)])
        return made[0]

    def _clips(
        self, objective: DiffusionObjective, batch: Batch, bucket: Bucket, noise_of: Sequence[tuple]
    ) -> tuple[Tensor, Tensor]:
        """(b, t, 3, h, w) in [0, 1] made, and the true ones, as the codec shows them. noise_of: each clip's seed."""
        unet, codec = objective.unet, objective.frozen.codec
        latents, frames = objective.latents(batch)
        shape = latents.shape[1:]
        keep = torch.zeros(len(batch), dtype=torch.bool, device=latents.device)
        tokens = objective.image_tokens(batch, keep)
        blank = None
        if tokens is not None and objective.dropout.image_means == "grey":
            blank = objective.image_tokens(batch, ~keep)
        empty = [""] * len(batch)
        config = unet.config
        prompt = Prompt(
            text=objective.tokens("text", batch.text),
            uncond_text=self._empty("text", objective, empty),
            motion=None if config.motion_text == "off" else objective.tokens("motion", batch.motion),
            uncond_motion=None if config.motion_text == "off" else self._empty("motion", objective, empty),
            first_frame=objective.first_frame(batch, latents, frames, keep),
            image_tokens=tokens,
            uncond_image_tokens=blank,
            frame_rate=None if batch.frame_rate is None else float(batch.frame_rate[0]),
        )
        noise = [torch.randn((frames, *shape), generator=generator(self.seed, *seed)) for seed in noise_of]
        noise = torch.cat(noise).to(latents)
        schedule = self.stage.noise
        made = sample(
            unet,
            schedule.build(frames, bucket.height, bucket.width),
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

    def _empty(self, name: str, objective: DiffusionObjective, captions: list[str]) -> Tensor:
        if name in self.empty:
            device = next(objective.unet.parameters()).device
            return self.empty[name].to(device).expand(len(captions), -1, -1)
        encoder = objective.encoder(name)
        assert encoder is not None  # one that was let go of has left its tokens in `empty`
        return encoder(captions)

    def _rows(self) -> list[list[int]]:
        rows = list(range(len(self.examples)))
        return [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]


def _latent_shape(batch: Batch, objective: DiffusionObjective) -> tuple[int, ...]:
    """(t, c, h, w) of one clip."""
    if batch.latents is not None:
        return tuple(batch.latents.shape[1:])
    codec = objective.frozen.codec
    _, t, _, h, w = batch.pixels.shape
    return t, codec.latent_channels, h // codec.downscale, w // codec.downscale
