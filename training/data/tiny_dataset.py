"""Endless clips of the tiny world as batches. A step's batch depends on (seed, step) alone: resume is exact."""

from __future__ import annotations

import torch

from ..batch import Batch
from ..config import DataConfig
from ..errors import TrainingError
from .tiny_render import flow, render
from .tiny_world import captions, sample_specs


class TinyWorld:
    def __init__(self, config: DataConfig, with_flow: bool = False) -> None:
        if config.height != config.width:
            raise TrainingError(f"tiny_world clips are square, not {config.width}x{config.height}; set height = width.")
        self.config, self.with_flow = config, with_flow

    def batch(self, size: int, generator: torch.Generator, split: str = "train") -> Batch:
        """Draw clips with the generator; same state, same bits."""
        specs = sample_specs(size, generator, split)
        frames = render(specs, self.config.frames, self.config.height)
        text, motion = captions(specs)
        moved, valid = flow(specs, self.config.frames, self.config.height) if self.with_flow else (None, None)
        return Batch(frames, text, motion, moved, valid)
