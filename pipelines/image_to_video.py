"""A still picture and two captions -> a clip: Factorized-Dreamer's second step, headless.

latents of the picture, image tokens, text (CLIP), motion text (T5)  ->  denoise  ->  frames
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .bundle import Bundle
from .errors import InputError
from .sampling import SCHEDULERS, Prompt, sample

MAX_FRAMES = 1024
MAX_PIXELS = 2**28  # frames * height * width: beyond it no machine of today holds the activations


@dataclass(frozen=True)
class Settings:
    """How to sample; None takes the bundle's default."""

    frames: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    sampler: str | None = None
    eta: float = 0.0
    seed: int = 0
    frame_rate: float | None = None
    image_strength: float = 1.0
    paca_strength: float = 1.0
    swap_strength: float = 1.0


@torch.no_grad()
def animate(
    bundle: Bundle,
    images: Tensor,
    text: Sequence[str],
    motion: Sequence[str],
    settings: Settings | None = None,
    *,
    last_images: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Bring first frames to life.

    images: (b, 3, h, w) in [0, 1], sides multiples of the codec's. text: what is seen, motion: what happens, one
    each per picture. Returns clips (b, t, 3, h, w) in [0, 1]. The same seed gives the same clip, whatever else is
    in the batch. on_step(done, total) is called after every step. Raises InputError with one sentence.
    """
    settings, defaults, config = settings or Settings(), bundle.defaults, bundle.unet.config
    frames = defaults.frames if settings.frames is None else settings.frames
    steps = defaults.steps if settings.steps is None else settings.steps
    check_settings(settings)
    check_size(bundle, frames, *images.shape[-2:])
    batch, (height, width) = len(images), images.shape[-2:]

    prompt = encode(bundle, images, text, motion, settings, last_images)
    schedule = bundle.schedule.build(frames, height, width)
    size = (frames, config.in_channels, height // bundle.codec.downscale, width // bundle.codec.downscale)
    # One stream of random numbers a clip: first its noise, then what a sampler adds on the way.
    generators = [torch.Generator().manual_seed(settings.seed + i) for i in range(batch)]
    noise = torch.cat([torch.randn(size, generator=g) for g in generators])
    latents = sample(
        bundle.unet,
        schedule,
        prompt,
        noise.to(prompt.first_frame),
        frames,
        steps=steps,
        guidance_scale=_or(settings.guidance_scale, defaults.guidance_scale),
        guidance_rescale=_or(settings.guidance_rescale, bundle.schedule.guidance_rescale),
        sampler=settings.sampler or defaults.sampler,
        spacing=bundle.schedule.spacing,
        eta=settings.eta,
        generators=generators,
        on_step=on_step,
    )
    pixels = bundle.codec.decode(latents).float()
    return rearrange((pixels + 1) / 2, "(b t) c h w -> b t c h w", t=frames).clamp(0, 1).cpu()


def encode(
    bundle: Bundle,
    images: Tensor,
    text: Sequence[str],
    motion: Sequence[str],
    settings: Settings,
    last_images: Tensor | None = None,
) -> Prompt:
    """Run every encoder once."""
    batch, config = len(images), bundle.unet.config
    like = next(bundle.unet.parameters())
    images = images.to(like)
    last_images = None if last_images is None else last_images.to(like)
    empty = [""] * batch
    if config.motion_text == "off":  # one prompt says it all
        text = [", ".join(filter(None, captions)) for captions in zip(text, motion, strict=True)]
    prompt = Prompt(
        text=bundle.text(list(text)),
        uncond_text=bundle.text(empty),
        first_frame=bundle.codec.encode(images * 2 - 1),
        last_frame=None if last_images is None else bundle.codec.encode(last_images * 2 - 1),
        frame_rate=settings.frame_rate,
        strengths=_strengths(settings),
    )
    if bundle.motion is not None and config.motion_text != "off":
        prompt.motion, prompt.uncond_motion = bundle.motion(list(motion)), bundle.motion(empty)
    if bundle.image is not None and config.image_projector is not None:
        features = bundle.image(images)
        prompt.image_tokens = bundle.unet.project_image(features)
        means = bundle.defaults.uncond_image or config.uncond_image
        if means != "same":
            blank = bundle.image.blank(means, features)
            prompt.uncond_image_tokens = bundle.unet.project_image(blank)
    return prompt


def check_settings(settings: Settings) -> None:
    """Refuse settings that no network could use."""
    ranges = {
        "frames": (1, MAX_FRAMES),
        "steps": (1, 1000),
        "guidance_scale": (0, 100),
        "guidance_rescale": (0, 1),
        "eta": (0, 1),
        "seed": (0, 2**63 - 1),
        "frame_rate": (0, 1000),
        "image_strength": (0, 10),
        "paca_strength": (0, 10),
        "swap_strength": (0, 10),
    }
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:  # nan is in no range
            raise InputError(f"{name} is {value}; expected {low} to {high}.")
    if settings.sampler is not None and settings.sampler not in SCHEDULERS:
        raise InputError(f"there is no sampler {settings.sampler!r}; choose from {', '.join(SCHEDULERS)}.")


def check_size(bundle: Bundle, frames: int, height: int, width: int) -> None:
    """Refuse a clip size that this bundle cannot make, or no machine of today."""
    unit = bundle.codec.downscale
    if height % unit or width % unit or height < unit or width < unit:
        raise InputError(f"the clip would be {width}x{height}; both sides must be multiples of {unit}.")
    if frames * height * width > MAX_PIXELS:
        raise InputError(
            f"{frames} frames of {width}x{height} are {frames * height * width:,} pixels; "
            f"this pipeline takes up to {MAX_PIXELS:,}: choose fewer frames or a smaller size."
        )


def _strengths(settings: Settings) -> Mapping[str, float]:
    return {
        "image_adapter": settings.image_strength,
        "paca": settings.paca_strength,
        "swap_attention": settings.swap_strength,
    }


def _or(value, default):
    return default if value is None else value
