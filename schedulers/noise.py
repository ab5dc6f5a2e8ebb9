"""Noise levels as tables: ᾱ_t and what the papers do to it.

A table is a float64 tensor (N,), index t = 0 … N−1 (the papers count from 1), with ᾱ in [0, 1] and
x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε, SNR(t) = ᾱ_t / (1−ᾱ_t). Every function is exact at both ends: ᾱ = 0 (pure noise,
SNR 0) and ᾱ = 1 (no noise, SNR ∞).
"""

import math

import torch
from torch import Tensor

from ..errors import ScheduleError

RESCALES = ("lin", "printed", "none")


def scaled_linear_betas(num: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """β of Stable Diffusion, (num,) float64: the square of a line from √start to √end."""
    return torch.linspace(start**0.5, end**0.5, num, dtype=torch.float64) ** 2


def linear_betas(num: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """β of DDPM and AnimateDiff, (num,) float64: a line from start to end."""
    return torch.linspace(start, end, num, dtype=torch.float64)


BETAS = {"scaled_linear": scaled_linear_betas, "linear": linear_betas}  # by diffusers' names


def alphas_cumprod(betas: Tensor) -> Tensor:
    """ᾱ_t = Π_{i≤t} (1 − β_i), (N,) float64 (Ho et al. 2020, Eq. 4)."""
    return torch.cumprod(1 - betas.double(), dim=0)


def betas_from_alphas_cumprod(ac: Tensor) -> Tensor:
    """β_t = 1 − ᾱ_t / ᾱ_{t−1}, (N,) float64, with ᾱ before the first step = 1. Only the last ᾱ may be 0."""
    ac = ac.double()
    return 1 - ac / torch.cat([ac.new_ones(1), ac[:-1]])


def snr(ac: Tensor) -> Tensor:
    """SNR = ᾱ / (1−ᾱ), float64 in [0, ∞] (FD below Eq. 5)."""
    ac = ac.double()
    return ac / (1 - ac)


def log_snr(ac: Tensor) -> Tensor:
    """Natural log SNR, float64: −∞ at ᾱ = 0 and +∞ at ᾱ = 1."""
    ac = ac.double()
    return torch.log(ac) - torch.log1p(-ac)


def shift_factor(frames: int, height: int, width: int, reference: float = 256.0) -> float:
    """s = √(D·D / (T·H·W)) of FD Eq. 5: 0.125 for 16×512×512, 0.177 for 32×256×256, 1 for one 256×256 image.

    ``height``, ``width`` and ``reference`` (D) are in PIXELS: latent sizes against D = 256 would give s = 1
    where the paper has 0.125. s > 1, a clip with fewer pixels than the reference image, shifts towards less
    noise.
    """
    if min(frames, height, width) < 1 or not 0 < reference < math.inf:
        raise ScheduleError(
            f"The SNR shift was given {frames} frames of {height}×{width} pixels and reference {reference}, "
            "but each must be positive: give the clip's size in pixels."
        )
    return math.sqrt(reference * reference / (frames * height * width))


def shift_snr(ac: Tensor, s: float | Tensor) -> Tensor:
    """ᾱ' with SNR' = SNR·s² (FD Eq. 5; Hoogeboom et al. 2023). ``s`` > 0, a number or one per step (N,)."""
    ac = ac.double()
    # ᾱ' = SNR' / (1 + SNR') with the fraction cleared: no division by 1−ᾱ, so both ends stay exact.
    return ac * s**2 / (ac * s**2 + (1 - ac))


def rescale_zero_terminal(ac: Tensor, form: str = "lin") -> Tensor:
    """ᾱ' with ᾱ'_N = 0, (N,) float64; the first step keeps its level ("lin") or loses all noise ("printed").

    - "lin": √ᾱ' = (√ᾱ_t − √ᾱ_N)·√ᾱ_1 / (√ᾱ_1 − √ᾱ_N), Lin et al. 2023, Algorithm 1, which FD cites.
    - "printed": √ᾱ' = √(ᾱ_t − ᾱ_N) / √(ᾱ_1 − ᾱ_N), FD Eq. 6 as printed; ᾱ'_1 = 1, an infinite SNR.
    - "none": unchanged.
    """
    ac = ac.double()
    if form == "none":
        return ac.clone()
    if form == "printed":
        return (ac - ac[-1]) / (ac[0] - ac[-1])
    if form == "lin":
        root = ac.sqrt()
        return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    raise ScheduleError(
        f"The rescale form is {form!r}, but it must be one of {', '.join(RESCALES)}: pick one of these."
    )


def signal_scale(num: int = 1000, base: float = 1.0, turning_step: int = 400) -> Tensor:
    """s_t of VideoCrafter and DynamiCrafter, (num,) float64: a line from 1 to ``base``, then ``base``.

    The latent is multiplied by s_t before noising: x_t = √ᾱ_t·s_t·x0 + √(1−ᾱ_t)·ε. ``base`` 1 switches it
    off.
    """
    line = torch.linspace(1, base, turning_step, dtype=torch.float64)
    return torch.cat([line, line.new_full((max(num - turning_step, 0),), base)])[:num]


def apply_signal_scale(ac: Tensor, scale: Tensor) -> Tensor:
    """The variance-preserving ᾱ with SNR·s_t², that of √ᾱ_t·s_t·x0 + √(1−ᾱ_t)·ε: FD Eq. 5 with an s per t."""
    return shift_snr(ac, scale.double())
