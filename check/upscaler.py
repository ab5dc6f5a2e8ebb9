"""RCAN in less and less memory: strips get thinner, and the image stays."""

from __future__ import annotations

import torch

from ..model_patches.upscaling.enlarge import Enlarger
from ..model_patches.upscaling.rcan import RCAN, RCANConfig
from ..model_patches.upscaling.upscaler import Upscaler
from .device import GIB, Here, left
from .report import Wrong

SIZES = (4.0, 2.0, 1.0, 0.5, 0.3, 0.2)  # GiB that are left
MOST = 1e-4  # of 1: float32's rounding through 80 blocks


def ladder(here: Here) -> dict:
    """At six sizes of memory, the largest difference from the undivided image, and the peak of each."""
    torch.manual_seed(0)
    config = RCANConfig(groups=10, blocks=8) if not here.small else RCANConfig(1, 2, 16, 4)
    network = RCAN(config).eval().requires_grad_(False)
    h, w, frames = (192, 344, 4) if not here.small else (40, 60, 2)
    images = torch.rand(frames, 3, h, w)
    upscaler = Upscaler(network, 4, "RCAN", half=False, bfloat16=True)
    whole = Enlarger(upscaler, here.device, at_once=1, free=lambda: 2**62)
    whole.strip = h * w  # undivided
    expected, facts, worst = whole(images), {}, 0.0
    for gib in SIZES:
        with left(here, gib) as tight:
            if here.is_card and not tight:
                facts[f"{gib} GiB"] = "not to be had on this card"
                continue
            # A CPU is told less than it has, in the proportion of its smaller images.
            pretended = None if tight else (lambda gib=gib: int(gib * GIB * (h * w) / (192 * 344) / 16))
            enlarge = Enlarger(upscaler, here.device, at_once=frames, free=pretended)
            if tight:
                torch.cuda.reset_peak_memory_stats(here.device)
                before = torch.cuda.memory_allocated(here.device)
            found = enlarge(images)
            used = f", {(torch.cuda.max_memory_allocated(here.device) - before) / GIB:.2f} GiB" if tight else ""
        difference = float((found - expected).abs().max())
        worst = max(worst, difference)
        size = f"{gib} GiB" if tight else f"as if {gib} GiB"
        facts[size] = f"{difference:.1g} off in strips of {enlarge.rows} rows{used}"
    if not worst <= MOST:
        raise Wrong(f"strips are {worst:.2g} off the undivided image, more than {MOST:.0e}", facts)
    return facts
