"""Which of the N training steps a sampler visits: int64 (steps,), 0-based, descending.

"trailing" starts at N−1, the only spacing that uses a zero-terminal-SNR schedule as it was trained (Lin et
al. 2023, Table 2); "leading" is Stable Diffusion's and LVDM's "uniform"; "linspace" has both ends.
"""

import torch
from torch import Tensor

from ..errors import ScheduleError
from .prediction import check_prediction

SPACINGS = ("trailing", "leading", "linspace")


def spacing(steps: int, num: int = 1000, kind: str = "trailing", steps_offset: int = 1) -> Tensor:
    """Timesteps (steps,) int64, descending, in [0, num), as diffusers' DDIM spaces them.

    ``steps_offset`` is added to "leading" timesteps only; Stable Diffusion and LVDM both use 1. LVDM walks
    the whole range(0, num, num // steps) and so takes an extra step where ``steps`` does not divide ``num``;
    this does not.
    """
    if not 1 <= steps <= num:
        raise ScheduleError(f"{steps} sampling steps were asked of {num} training steps: ask for 1 to {num}.")
    i = torch.arange(steps, dtype=torch.float64)
    if kind == "trailing":
        # round(num − i·num/steps) − 1, as numpy's arange computes it: exact halves then fall as in the peers.
        step = (num - num / steps) - num
        return (num + i * step).round().long() - 1
    if kind == "linspace":
        return (i * ((num - 1) / max(steps - 1, 1))).round().long().flip(0)
    if kind == "leading":
        timesteps = (i.long() * (num // steps) + steps_offset).flip(0)
        if not 0 <= timesteps[-1] <= timesteps[0] < num:
            raise ScheduleError(
                f"{steps} leading steps with offset {steps_offset} reach timestep {int(timesteps[0])}, but "
                f"the last of {num} is {num - 1}: take fewer steps or offset 0."
            )
        return timesteps
    raise ScheduleError(f"The spacing is {kind!r}, but it must be one of {', '.join(SPACINGS)}: pick one of these.")


def last_usable(ac: Tensor, minimum: float = 1e-3) -> int:
    """The largest timestep with ᾱ ≥ ``minimum`` (and > 0) in the table ``ac`` (N,)."""
    usable = torch.nonzero((ac >= minimum) & (ac > 0))
    if not len(usable):
        raise ScheduleError(
            f"No timestep has alphas_cumprod of at least {minimum} (the largest is {float(ac.max()):.3g}): "
            "lower the minimum."
        )
    return int(usable[-1])


def drop_unusable(timesteps: Tensor, ac: Tensor, prediction: str, minimum: float = 1e-3) -> Tensor:
    """Timesteps that ``prediction`` can be sampled from: for "eps", none where ᾱ < ``minimum``.

    ε → x0 divides by √ᾱ: the error grows 32-fold at ᾱ = 1e-3 and without bound at ᾱ = 0. The steps above the
    largest usable one are replaced by that one, so sampling starts as high as it can; the result may be
    shorter. "v" and "x0" are usable everywhere and come back unchanged.
    """
    if check_prediction(prediction) != "eps":
        return timesteps
    start = last_usable(ac, minimum)
    if bool((timesteps <= start).all()):
        return timesteps
    return torch.cat([timesteps.new_tensor([start]), timesteps[timesteps < start]])
