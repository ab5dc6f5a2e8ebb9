"""Denoising a clip: any diffusers scheduler, classifier-free guidance, our noise schedule.

The network is asked twice per step, with and without captions; the picture (first frame, image tokens) stays in
both, so guidance strengthens the caption and never pulls away from the picture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..model_patches import Conditions, VideoUNet
from ..model_patches.kernels import same_bits
from ..schedulers import (
    NoiseSchedule,
    build_scheduler,
    classifier_free,
    ddim_step,
    drop_unusable,
    rescale_guidance,
    spacing as timesteps_of,
)

# Names users know -> diffusers' classes.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}


@dataclass
class Prompt:
    """What the network looks at, for b clips; the `un` forms are guidance's empty prompt."""

    text: Tensor  # (b, n, c)
    uncond_text: Tensor
    motion: Tensor | None = None  # (b, m, c)
    uncond_motion: Tensor | None = None
    first_frame: Tensor | None = None  # (b, z, h, w) latents
    last_frame: Tensor | None = None
    known: Tensor | None = None  # (b, k, z, h, w) latents of a clip's first k frames, which stay as they are
    image_tokens: Tensor | None = None  # (b, k, c)
    uncond_image_tokens: Tensor | None = None  # None: the same tokens in both halves
    frame_rate: float | None = None
    distance: int = 0  # frames from the picture to the clip's first one
    strengths: Mapping[str, float] = field(default_factory=dict)

    def to(self, like: Tensor) -> Prompt:
        """The same on the device and in the numbers of a tensor."""
        return replace(self, **{k: v.to(like) for k, v in vars(self).items() if isinstance(v, Tensor)})


def make_scheduler(name: str, schedule: NoiseSchedule, spacing: str):
    """A diffusers scheduler by short name, on our schedule."""
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"there is no sampler {name!r}; choose from {', '.join(SCHEDULERS)}.")
    return build_scheduler(getattr(diffusers, SCHEDULERS[name]), schedule, spacing)


@torch.no_grad()
@same_bits()
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
    generators: Sequence[torch.Generator] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise (b*t, z, h, w) standard normal noise into latents of the same shape.

    generators: one a clip, for samplers that add noise (eta > 0, euler_a). on_step(done, total) is called after every
    step; raise from it to cancel. Raises InputError where a sampler cannot run this schedule, or found no picture.
    """

    guidance = guidance_scale if guidance_scale != 1.0 else None

    def predict(x: Tensor, t: int) -> Tensor:
        return _predict(unet, x, t, prompt, frames, guidance, guidance_rescale)

    if prompt.known is not None:
        predict = _with_known(predict, unet, schedule, prompt.known, noise, frames)

    ill_posed = schedule.prediction == "eps" and float(schedule.alphas_cumprod[-1]) == 0.0
    if ill_posed and sampler != "ddim":
        raise InputError(
            f"sampler {sampler} starts where an eps model at zero terminal SNR has nothing to say; choose ddim."
        )
    if sampler == "ddim":
        x = _ddim(predict, schedule, noise, frames, steps, spacing, eta, generators, on_step)
    else:
        x = _diffusers(predict, schedule, noise, frames, steps, sampler, spacing, generators, on_step)
    if not torch.isfinite(x).all():
        raise InputError("sampling ended in numbers that are no picture; try more steps, less guidance or ddim.")
    if prompt.known is not None:
        x.unflatten(0, (-1, frames))[:, : prompt.known.shape[1]] = prompt.known
    return x


def takes_known(unet: VideoUNet, count: int) -> bool:
    """Whether the network was trained to be given so many first frames without noise."""
    return count <= unet.config.known_frames


def _with_known(predict, unet: VideoUNet, schedule: NoiseSchedule, known: Tensor, noise: Tensor, frames: int):
    """The same question with a clip's first frames in place; the answer to them is what they are.

    A network trained for it gets them without noise, at timestep 0; any other as noisy as the rest of the clip.
    """
    count = known.shape[1]
    own = noise.unflatten(0, (-1, frames))[:, :count].flatten(0, 1)
    flat = known.flatten(0, 1)
    clean = takes_known(unet, count)

    def ask(x: Tensor, t: int) -> Tensor:
        x = x.clone()
        x.unflatten(0, (-1, frames))[:, :count] = known if clean else schedule.add_noise(flat, own, t).view_as(known)
        output = predict(x, t)
        output.unflatten(0, (-1, frames))[:, :count] = schedule.target(flat, own, t).view_as(known)
        return output

    return ask


def _diffusers(predict, schedule, noise, frames, steps, sampler, spacing, generators, on_step) -> Tensor:
    """Any of diffusers' schedulers, on the variance-preserving schedule of the same SNR."""
    scheduler = make_scheduler(sampler, schedule, spacing)
    scheduler.set_timesteps(steps)
    options = {}
    if generators and "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = [g for g in generators for _ in range(frames)]
    x = noise * scheduler.init_noise_sigma
    for done, t in enumerate(scheduler.timesteps[:steps], start=1):  # diffusers gives some counts one step too many
        step = int(t)
        x_net = scheduler.scale_model_input(x, t) * schedule.network_input_scale(step).to(x)
        x = scheduler.step(schedule.to_effective(predict(x_net, step), x_net, step), t, x, **options).prev_sample
        if on_step is not None:
            on_step(done, steps)
    return x


def _ddim(predict, schedule, noise, frames, steps, spacing, eta, generators, on_step) -> Tensor:
    """DDIM from our own step, from each timestep to the next one visited.

    diffusers' goes from t to t - 1000//steps, which is another one where steps does not divide 1000, and with eta > 0
    takes the root of a rounded difference at zero SNR, which is not a number. An eps model of zero SNR starts at the
    last timestep that still has signal.
    """
    ac, scale = schedule.alphas_cumprod, schedule.signal_scale
    timesteps = timesteps_of(steps, len(ac), spacing)
    if ac[-1] == 0:
        timesteps = drop_unusable(timesteps, ac, schedule.prediction)
    levels = [(float(ac[t]), float(scale[t])) for t in timesteps]
    levels.append((float(ac[0]), float(scale[0])) if spacing == "leading" else (1.0, 1.0))
    # The network's own latent, signal scale and all, so that eta's noise is measured as the peers measure it.
    x = noise * schedule.network_input_scale(int(timesteps[0])).to(noise)
    for done, t in enumerate(timesteps.tolist(), start=1):
        (ac_t, scale_t), (ac_prev, scale_prev) = levels[done - 1 : done + 1]
        fresh = None
        if eta > 0:
            fresh = torch.cat([torch.randn((frames, *x.shape[1:]), generator=g) for g in generators]).to(x)
        x, _ = ddim_step(
            predict(x, t), x, ac_t, ac_prev, schedule.prediction,
            eta=eta, noise=fresh, scale_t=scale_t, scale_prev=scale_prev,
        )  # fmt: skip
        if on_step is not None:
            on_step(done, len(timesteps))
    return x


def _predict(
    unet: VideoUNet, x: Tensor, t: int, prompt: Prompt, frames: int, guidance: float | None, rescale: float
) -> Tensor:
    """The network's output, guided: both halves in one batch, unconditional first."""
    batch = x.shape[0] // frames
    known = 0 if prompt.known is None else prompt.known.shape[1]
    given = known if known and takes_known(unet, known) else 0

    def both(cond: Tensor, uncond: Tensor | None) -> Tensor:
        return cond if guidance is None else torch.cat([cond if uncond is None else uncond, cond])

    def both_or_none(cond: Tensor | None, uncond: Tensor | None) -> Tensor | None:
        return None if cond is None else both(cond, uncond)

    clips = batch if guidance is None else 2 * batch
    timesteps = torch.full((clips,), t, device=x.device)
    if given:
        timesteps = timesteps[:, None].repeat(1, frames)
        timesteps[:, :given] = 0
    output = unet(
        x if guidance is None else torch.cat([x, x]),
        timesteps.flatten(),
        Conditions(
            text=both(prompt.text, prompt.uncond_text),
            motion_text=both_or_none(prompt.motion, prompt.uncond_motion),
            first_frame=both_or_none(prompt.first_frame, None),
            last_frame=both_or_none(prompt.last_frame, None),
            image_tokens=both_or_none(prompt.image_tokens, prompt.uncond_image_tokens),
            frame_rate=prompt.frame_rate,
            frame_index=torch.arange(frames, device=x.device) + prompt.distance,
            strengths=prompt.strengths,
        ),
        num_frames=frames,
    )
    if guidance is None:
        return output
    uncond, cond = output.chunk(2)
    guided = classifier_free(cond, uncond, guidance)
    return rescale_guidance(guided, cond, rescale, frames, given) if rescale else guided
