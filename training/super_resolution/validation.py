"""Seeing an upscaler learn: the same clips with the same damage every time, beside what needs no learning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...pipelines.media.sheets import INK, PAPER, font, save_image, to_uint8
from ..config import OutputConfig, UpscalerStageConfig
from ..data.source import Source
from .measures import bicubic, measure
from .objective import SuperResolution

SIDE = 384  # of the squares looked at, pixels of the large picture
SHOWN = 8


class Validation:
    """Validation clips of a stage: the middle square of each."""

    def __init__(self, sources: dict[str, Source], stage: UpscalerStageConfig, output: OutputConfig, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self.source, self.examples = None, []
        for source in sources.values():
            self.examples = source.examples(output.validation_clips)
            if self.examples:
                self.source = source
                break
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self.examples)

    @torch.no_grad()
    def loss(self, objective: SuperResolution, device: torch.device) -> dict[str, float]:
        """The mean absolute error of ours and of bicubic."""
        self.kept = [self._upscaled(objective, device, i) for i in range(len(self.examples))]
        ours = sum((made - truth).abs().mean().item() for _, made, truth in self.kept)
        plain = sum(
            (bicubic(small, objective.network.scale) - truth).abs().mean().item() for small, _, truth in self.kept
        )
        return {"loss": ours / len(self.kept), "loss of bicubic": plain / len(self.kept)}

    @torch.no_grad()
    def sample(
        self, objective: SuperResolution, device: torch.device, step: int, folder: Path
    ) -> tuple[dict[str, float], Path]:
        """Measures of `loss`'s clips, and the sheet: input, bicubic, ours, truth."""
        scale, scores = objective.network.scale, defaultdict(list)
        for small, made, truth in self.kept:
            for name, measured in measure({"": made, "bicubic_": bicubic(small, scale)}, truth).items():
                for key, value in measured.items():
                    scores[name + key].append(value)
        sheet = folder / f"step-{step:09d}.png"
        comparison(sheet, [(s[0], m[0], t[0]) for s, m, t in self.kept[:SHOWN]], scale, f"step {step}")
        self.kept = []
        return {name: sum(values) / len(values) for name, values in scores.items()}, sheet

    def _upscaled(self, objective: SuperResolution, device: torch.device, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """One clip's damaged, upscaled and true frames, (t, 3, h, w) on the CPU."""
        example = self.examples[number]
        truth = middle(self.source.example_batch(example.bucket, [example.index]).frames[0], SIDE)
        small = objective.damaged(truth[None].to(device), [(self.seed, "validation", number)])
        return small.cpu(), objective.network(small).float().clamp(0, 1).cpu(), truth


def middle(clip: Tensor, side: int) -> Tensor:
    """The middle of (t, 3, h, w), sides at most `side` and multiples of 8."""
    height, width = (min(side, n) // 8 * 8 for n in clip.shape[-2:])
    top, left = (clip.shape[-2] - height) // 2, (clip.shape[-1] - width) // 2
    return clip[..., top : top + height, left : left + width]


def comparison(path: Path, rows: Sequence[tuple[Tensor, ...]], scale: int, title: str, tile: int = 256) -> None:
    """Middle squares, pixel for pixel, as a PNG: input (3, h, w), bicubic, ours (3, s*h, s*w), truth if there is one.

    rows: of (input, ours) or (input, ours, truth).
    """
    names = ("input", "bicubic", "ours", "truth")[: len(rows[0]) + 1]
    gap, head = 6, 44
    sheet = Image.new("RGB", (len(names) * (tile + gap) + gap, head + len(rows) * (tile + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 4), title, INK, font=font(15))
    for i, name in enumerate(names):
        draw.text((gap + i * (tile + gap), 24), name, INK, font=font(13))
    for row, (small, *large) in enumerate(rows):
        pixels = small.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        for i, image in enumerate((pixels, bicubic(small[None], scale)[0], *large)):
            place = (gap + i * (tile + gap), head + row * (tile + gap))
            sheet.paste(Image.fromarray(to_uint8(middle(image[None], tile)[0])), place)
    save_image(sheet, path)
