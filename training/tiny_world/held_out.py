"""The fixed evaluation set of the tiny world: combinations of colour, shape and background never trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .render import ClipSpec, render
from .world import captions, sample_specs

SEED = 20_000


@dataclass(frozen=True)
class HeldOut:
    """n clips with their truth and canonical captions."""

    specs: ClipSpec
    clips: Tensor  # (n, t, 3, h, w)
    text: list[str]
    motion: list[str]

    @property
    def first_frames(self) -> Tensor:
        return self.clips[:, 0]


def held_out(count: int, *, frames: int = 8, size: int = 64, motions: str = "directions", seed: int = SEED) -> HeldOut:
    """The same clips for the same arguments; motions is "directions" (8 ways, 3 speeds) or "all"."""
    specs = sample_specs(count, torch.Generator().manual_seed(seed), "held_out", motions)
    text, motion = captions(specs, canonical=True)
    return HeldOut(specs, render(specs, frames, size), text, motion)
