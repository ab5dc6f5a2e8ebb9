"""How good is an upscaler? Measured against the truth on clips it has not seen, beside bicubic and Lanczos.

A clip is made smaller, goes through a codec as a generated one does, and is enlarged again in every way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ...model_patches.upscaling.enlarge import Enlarger
from ...model_patches.upscaling.sizes import bicubic
from ...model_patches.upscaling.upscaler import Upscaler
from ...pipelines.bundle import Codec
from .degradation import downsize, through_codec
from .measures import lanczos, measure

Clips = Sequence[Tensor]


def compare(upscaler: Upscaler, clips: Clips, codec: Codec | None, device: str = "cpu") -> dict[str, dict]:
    """Means over clips (t, 3, h, w) in [0, 1], sides multiples of 32: {"ours": {"psnr": …}, "bicubic": …, …}.

    codec: what the small clip goes through; None: nothing.
    """
    enlarge = Enlarger(upscaler, device)
    ways = {
        "ours": enlarge,
        "bicubic": lambda small: bicubic(small, upscaler.scale),
        "lanczos": lambda small: lanczos(small, upscaler.scale),
        "truth": None,  # what of the measures is the clip's own
    }
    sums: dict[str, dict[str, float]] = {name: {} for name in ways}
    for truth in tqdm(clips, desc="upscaling"):
        small = made_small(truth, upscaler.scale, codec)
        made = {name: truth if way is None else way(small) for name, way in ways.items()}
        for name, measured in measure(made, truth).items():
            for key, value in measured.items():
                sums[name][key] = sums[name].get(key, 0.0) + value / len(clips)
    del sums["truth"]["psnr"]
    return {name: {key: round(value, 4) for key, value in scores.items()} for name, scores in sums.items()}


@torch.no_grad()
def made_small(clip: Tensor, scale: int, codec: Codec | None) -> Tensor:
    """The small clip as the upscaler gets it, in steps of 1/255 as in a file."""
    small = downsize(clip, scale)
    if codec is not None:
        small = through_codec(small, codec, 0.0, torch.Generator()).clamp(0, 1)
    return (small * 255).round() / 255
