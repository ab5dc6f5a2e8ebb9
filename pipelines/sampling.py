"""Denoising a clip: any diffusers scheduler, classifier-free guidance, our noise schedule.

The network is asked twice per step, with and without captions; the picture (first frame, image tokens) stays in
both, so guidance strengthens the caption and never pulls away from the picture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model_patches import VideoUNet
from ..schedulers import NoiseSchedule, build_scheduler, drop_unusable, rescale_guidance
from .errors import InputError

SCHEDULERS = ("ddim", "euler", "euler_a", "dpm++2m", "unipc")


@dataclass
class Prompt:
    """What the network looks at, for b clips; the `un` forms are guidance's empty prompt."""

    text: Tensor  # (b, n, c)
    uncond_text: Tensor
    motion: Tensor | None = None  # (b, m, c)
    uncond_motion: Tensor | None = None
    first_frame: Tensor | None = None  # (b, z, h, w) latents
    last_frame: Tensor | None = None
    image_tokens: Tensor | None = None  # (b, k, c)
    uncond_image_tokens: Tensor | None = None  # None: the same tokens in both halves
    frame_rate: float | None = None
    strengths: Mapping[str, float] = field(default_factory=dict)


def make_scheduler(name: str, schedule: NoiseSchedule, spacing: str):
    """A diffusers scheduler by short name, on our schedule."""
    import diffusers

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "euler_a": diffusers.EulerAncestralDiscreteScheduler,
        "dpm++2m": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }
    if name not in classes:
        raise InputError(f"there is no sampler {name!r}; choose from {', '.join(SCHEDULERS)}.")
    return build_scheduler(classes[name], schedule, spacing)


@torch.no_grad()
def sample(
    unet: VideoUNet,
    schedule: NoiseSchedule,
    prompt: Prompt,
    noise: Tensor,
    frames: int,
    *,
    steps: int = 50,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    sampler: str = "ddim",
    spacing: str = "trailing",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise (b*t, z, h, w) standard normal noise into latents of the same shape.

    on_step(done, total) is called after every step; raise from it to cancel.
    """
    # An eps model has nothing to say where no signal is left: it starts at the last step that has some.
    ill_posed = schedule.prediction == "eps" and float(schedule.alphas_cumprod[-1]) == 0.0
    scheduler = make_scheduler(sampler, schedule, "leading" if ill_posed else spacing)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[:steps]
    if ill_posed:
        timesteps = drop_unusable(timesteps, schedule.alphas_cumprod, "eps")
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(len(scheduler.timesteps) - len(timesteps))

    options = {"eta": eta, "generator": generator}
    accepted = inspect.signature(scheduler.step).parameters
    options = {k: v for k, v in options.items() if k in accepted}
    guided = guidance_scale != 1.0
    x = noise * scheduler.init_noise_sigma
    for done, t in enumerate(timesteps, start=1):
        step = int(t)
        scaled = scheduler.scale_model_input(x, t)
        x_net = scaled * schedule.network_input_scale(step).to(scaled)
        output = _predict(unet, x_net, step, prompt, frames, guidance_scale if guided else None, guidance_rescale)
        x = scheduler.step(schedule.to_effective(output, x_net, step), t, x, **options).prev_sample
        if on_step is not None:
            on_step(done, len(timesteps))
    return x


def _predict(
    unet: VideoUNet, x: Tensor, t: int, prompt: Prompt, frames: int, guidance: float | None, rescale: float
) -> Tensor:
    """The network's output, guided: both halves in one batch, unconditional first."""
    batch = x.shape[0] // frames

    def both(cond: Tensor | None, uncond: Tensor | None) -> Tensor | None:
        if guidance is None or cond is None:
            return cond
        return torch.cat([cond if uncond is None else uncond, cond])

    output = unet(
        x if guidance is None else torch.cat([x, x]),
        torch.full((batch if guidance is None else 2 * batch,), t, device=x.device),
        both(prompt.text, prompt.uncond_text),
        num_frames=frames,
        motion_text=both(prompt.motion, prompt.uncond_motion),
        first_frame=both(prompt.first_frame, None),
        last_frame=both(prompt.last_frame, None),
        image_tokens=both(prompt.image_tokens, prompt.uncond_image_tokens),
        frame_rate=prompt.frame_rate,
        strengths=prompt.strengths,
    )
    if guidance is None:
        return output
    uncond, cond = output.chunk(2)
    guided = uncond + guidance * (cond - uncond)
    return rescale_guidance(guided, cond, rescale, frames) if rescale else guided
