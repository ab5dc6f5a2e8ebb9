"""Real-ESRGAN's blur kernels (Wang et al. 2021, sec. 3.1 and 3.3; formulas as in BasicSR's data/degradations.py).

A kernel is (21, 21) float32 with sum 1, centred; what is smaller is padded with zeros. d² below is the squared
distance from the centre in units of sigma, along turned axes where the kind is anisotropic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..upscaler_config import LARGEST, PassConfig


def between(u: float, ends: Sequence[float]) -> float:
    """u in [0, 1) -> a number between the ends."""
    return ends[0] + u * (ends[1] - ends[0])


def one_of(u: float, weights: dict[str, float]) -> str:
    """u in [0, 1) -> a name, as often as its weight says; never one of weight 0."""
    left = u * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return max(weights, key=lambda name: weights[name])  # rounding left nothing


def blur(kind: str, size: int, sigma: tuple[float, float], angle: float, beta: float) -> Tensor:
    """One of config.KINDS. sigma: pixels, along the two axes (isotropic: the first); angle: radians.

    (generalized) Gaussian: exp(-d^(2 beta) / 2); plateau: 1 / (1 + d^(2 beta)).
    """
    y, x = _grid(size)
    if kind.endswith("aniso"):
        across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        d2 = (across / sigma[0]) ** 2 + (along / sigma[1]) ** 2
    else:
        d2 = (x**2 + y**2) / sigma[0] ** 2
    if kind.startswith("plateau"):
        return _finished(1 / (1 + d2**beta))
    return _finished(torch.exp(-0.5 * (d2**beta if kind.startswith("generalized") else d2)))


def sinc(size: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass, cut off at the kernel's edge; cutoff: radians per pixel, pi at most."""
    y, x = _grid(size)
    r = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)  # the limit, where the line above has 0 / 0
    return _finished(kernel)


def draw_blur(config: PassConfig, generator: Generator) -> Tensor:
    """A kernel for a pass: eight random numbers, whatever comes of them."""
    size, which, kind, *sigma, angle, half, beta = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    side = config.kernel_sizes[int(size * len(config.kernel_sizes))]
    if which < config.sinc_chance:
        return sinc(side, between(beta, (math.pi / (3 if side < 13 else 5), math.pi)))
    kind = one_of(kind, config.kinds)
    low, high = config.beta_plateau if kind.startswith("plateau") else config.beta_generalized
    beta = between(beta, (low, 1) if half < 0.5 else (1, high))
    across, along = (between(s, config.sigma) for s in sigma)
    return blur(kind, side, (across, along), between(angle, (-math.pi, math.pi)), beta)


def draw_sinc(sizes: Sequence[int], generator: Generator) -> Tensor:
    """The low-pass at the end: two random numbers."""
    size, cutoff = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return sinc(sizes[int(size * len(sizes))], between(cutoff, (math.pi / 3, math.pi)))


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """y and x of a kernel's pixels, (size, size) each, pixels from its centre."""
    at = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    return y, x


def _finished(kernel: Tensor) -> Tensor:
    return F.pad(kernel / kernel.sum(), [(LARGEST - len(kernel)) // 2] * 4).float()
