"""The noise schedule: pure functions on float64 tables, torch only.

- ``noise``: β, ᾱ, SNR; the shift by clip size (FD Eq. 5), zero terminal SNR (FD Eq. 6), the signal scale
- ``prediction``: exact algebra between ε, v and x0
- ``timesteps``: which steps a sampler visits, and which an ε model cannot start from
- ``weights``, ``guidance``: min-SNR-γ; classifier-free and three-way guidance, rescale over whole clips
- ``ddim``: one DDIM step, signal scale and η included
- ``schedule``: ``ScheduleConfig`` → ``NoiseSchedule``, its curves, and the presets ``SCHEDULES``
- ``diffusers_bridge``: the same schedule inside a diffusers scheduler
"""

from ..errors import ScheduleError
from .ddim import ddim_sigma, ddim_step
from .diffusers_bridge import build_scheduler
from .guidance import classifier_free, rescale_guidance
from .noise import (
    RESCALES,
    alphas_cumprod,
    apply_signal_scale,
    betas_from_alphas_cumprod,
    linear_betas,
    log_snr,
    rescale_zero_terminal,
    scaled_linear_betas,
    shift_factor,
    shift_snr,
    signal_scale,
    snr,
)
from .prediction import PREDICTIONS, add_noise, convert, target, to_eps, to_v, to_x0
from .schedule import SCHEDULES, NoiseSchedule, ScheduleConfig, log_snr_curves
from .timesteps import SPACINGS, drop_unusable, last_usable, spacing
from .weights import min_snr_weights

__all__ = [
    "PREDICTIONS",
    "RESCALES",
    "SCHEDULES",
    "SPACINGS",
    "NoiseSchedule",
    "ScheduleConfig",
    "ScheduleError",
    "add_noise",
    "alphas_cumprod",
    "apply_signal_scale",
    "betas_from_alphas_cumprod",
    "build_scheduler",
    "classifier_free",
    "convert",
    "ddim_sigma",
    "ddim_step",
    "drop_unusable",
    "last_usable",
    "linear_betas",
    "log_snr",
    "log_snr_curves",
    "min_snr_weights",
    "rescale_guidance",
    "rescale_zero_terminal",
    "scaled_linear_betas",
    "shift_factor",
    "shift_snr",
    "signal_scale",
    "snr",
    "spacing",
    "target",
    "to_eps",
    "to_v",
    "to_x0",
]
