"""Seeing an upscaler learn: the same clips with the same damage every time, beside what needs no learning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.upscaling.sizes import bicubic
from ...pipelines.media.sheets import comparison, middle
from ..config import OutputConfig, UpscalerStageConfig
from ..data.source import Example, Source
from .measures import measure
from .objective import SuperResolution

SIDE = 384  # of the squares looked at, pixels of the large picture
SHOWN = 8


class Validation:
    """Validation clips of a stage: the middle square of each."""

    source: Source  # of the examples, where there are any

    def __init__(
        self, sources: Mapping[str, Source], stage: UpscalerStageConfig, output: OutputConfig, seed: int
    ) -> None:
        self.stage, self.seed = stage, seed
        self.examples: list[Example] = []
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
        truth = middle(self.source.example_batch(example.bucket, [example.index]).pixels[0], SIDE)
        small = objective.damaged(truth[None].to(device), [(self.seed, "validation", number)])
        return small.cpu(), objective.network(small).float().clamp(0, 1).cpu(), truth
