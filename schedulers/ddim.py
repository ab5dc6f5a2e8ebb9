"""One DDIM step, with the signal scale of VideoCrafter and DynamiCrafter."""

import torch
from torch import Tensor

from ..errors import ScheduleError
from .prediction import as_coefficient, to_eps, to_x0


def ddim_sigma(ac_t: float, ac_prev: float, eta: float) -> float:
    """σ = η·√((1−ᾱ_prev)/(1−ᾱ_t))·√(1 − ᾱ_t/ᾱ_prev) (Song et al. 2021, Eq. 16); 0 where ᾱ_t = 1."""
    if ac_t >= 1:
        return 0.0
    return eta * max((1 - ac_prev) / (1 - ac_t) * (1 - ac_t / ac_prev), 0.0) ** 0.5


def ddim_step(
    output: Tensor,
    x_t: Tensor,
    ac_t: float | Tensor,
    ac_prev: float | Tensor,
    prediction: str,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    scale_t: float | Tensor = 1.0,
    scale_prev: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """x_t → (x_prev, x0): one step of Song et al. 2021, Eq. 12, on the schedule the network was trained with.

    ``output`` is the guided network output, shaped as ``x_t``; ``ac_t``, ``ac_prev`` are ᾱ here and at the
    step that follows in sampling (its level lower in noise; 1, or ᾱ of timestep 0, at the end). ``noise`` is
    the standard normal that ``eta`` > 0 adds. With a signal scale x_t = √ᾱ·s·x0 + √(1−ᾱ)·ε, and σ is still
    that of ᾱ, as the peers have it; x0 comes back without scale.
    """
    ac_t, ac_prev = float(ac_t), float(ac_prev)
    if eta <= 0:
        noise = None
    elif noise is None:
        raise ScheduleError(f"DDIM was asked for eta {eta} without noise: pass standard normal noise, or eta 0.")
    sigma = ddim_sigma(ac_t, ac_prev, eta)
    x0 = to_x0(output, x_t, ac_t, prediction) / as_coefficient(scale_t, x_t)
    eps = to_eps(output, x_t, ac_t, prediction)
    towards_noise = max(1 - ac_prev - sigma**2, 0.0) ** 0.5
    x_prev = as_coefficient(torch.as_tensor(scale_prev).double() * ac_prev**0.5, x_t) * x0 + towards_noise * eps
    if noise is not None:
        x_prev = x_prev + sigma * noise
    return x_prev, x0
