"""Hand a schedule to a diffusers scheduler. The class is passed in: nothing of diffusers is imported here."""

import inspect

import torch

from ..errors import ScheduleError
from .noise import betas_from_alphas_cumprod
from .schedule import NoiseSchedule

PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}

# What diffusers itself puts in place of ᾱ = 0 for samplers that work in σ = √((1−ᾱ)/ᾱ): no infinity.
SMALLEST_ALPHAS_CUMPROD = 2.0**-24


def build_scheduler(scheduler_class: type, schedule: NoiseSchedule, spacing: str = "trailing", **overrides):
    """An instance of ``scheduler_class`` that samples ``schedule.effective_alphas_cumprod``.

    ``spacing`` is "trailing", "leading" or "linspace"; ``overrides`` go to the constructor and win. With a
    signal scale, feed the network ``schedule.network_input_scale(t)·x`` and give the scheduler
    ``schedule.to_effective(…)``. "leading" ends at ᾱ of timestep 0 with offset 1 (Stable Diffusion's own
    convention), the others at a clean latent. Raises ScheduleError where an eps model would have to start at
    ᾱ = 0.
    """
    ac = schedule.effective_alphas_cumprod
    if schedule.prediction == "eps" and ac[-1] == 0 and spacing != "leading":
        raise ScheduleError(
            f"{scheduler_class.__name__} with {spacing} timesteps starts at alphas_cumprod = 0, where an "
            "eps prediction says nothing of x0: use a v-prediction model, or ddim_step on drop_unusable "
            "timesteps."
        )
    arguments = {
        "num_train_timesteps": len(ac),
        "trained_betas": betas_from_alphas_cumprod(ac).tolist(),
        "prediction_type": PREDICTION_TYPES[schedule.prediction],
        "timestep_spacing": spacing,
        "steps_offset": 1 if spacing == "leading" else 0,
        "set_alpha_to_one": spacing != "leading",
        "clip_sample": False,
    }
    accepted = inspect.signature(scheduler_class.__init__).parameters
    scheduler = scheduler_class(**{k: v for k, v in arguments.items() if k in accepted} | overrides)
    _replace_table(scheduler, ac)
    return scheduler


def _replace_table(scheduler, ac: torch.Tensor) -> None:
    """Overwrite ᾱ and all that was derived from it: the constructor's float32 cumprod of β drifts."""
    if hasattr(scheduler, "sigmas"):
        ac = torch.where(ac == 0, SMALLEST_ALPHAS_CUMPROD, ac)
        sigmas = ((1 - ac) / ac).sqrt().float()
        descending = scheduler.sigmas[0] > scheduler.sigmas[-1]  # Euler keeps them ready to sample, DPM-Solver by t
        scheduler.sigmas = torch.cat([sigmas.flip(0), sigmas.new_zeros(1)]) if descending else sigmas
    scheduler.alphas_cumprod = ac.float()
    if hasattr(scheduler, "final_alpha_cumprod") and not scheduler.config.set_alpha_to_one:
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t = ac.sqrt().float()
        scheduler.sigma_t = (1 - ac).sqrt().float()
        scheduler.lambda_t = (ac.sqrt().log() - (1 - ac).sqrt().log()).float()
