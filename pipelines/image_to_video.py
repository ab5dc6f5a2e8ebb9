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
    check_request(bundle, frames, images.shape[-2], images.shape[-1], steps, settings)
    batch, (height, width) = len(images), images.shape[-2:]

    prompt = encode(bundle, images, text, motion, settings, last_images)
    schedule = bundle.schedule.build(frames, height, width)
    size = (frames, config.in_channels, height // bundle.codec.downscale, width // bundle.codec.downscale)
    noise = torch.cat([_noise(settings.seed + i, size) for i in range(batch)])
    latents = sample(
        bundle.unet,
        schedule,
        prompt,
        noise.to(images),
        frames,
        steps=steps,
        guidance_scale=_or(settings.guidance_scale, defaults.guidance_scale),
        guidance_rescale=_or(settings.guidance_rescale, bundle.schedule.guidance_rescale),
        sampler=settings.sampler or defaults.sampler,
        spacing=bundle.schedule.spacing,
        eta=settings.eta,
        generator=torch.Generator().manual_seed(settings.seed),
        on_step=on_step,
    )
    pixels = bundle.codec.decode(latents)
    return rearrange((pixels + 1) / 2, "(b t) c h w -> b t c h w", t=frames).clamp(0, 1)


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
    empty = [""] * batch
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
        prompt.image_tokens = bundle.unet.project_image(bundle.image(images))
        if bundle.defaults.uncond_image == "grey":
            grey = torch.full_like(images, 0.5)
            prompt.uncond_image_tokens = bundle.unet.project_image(bundle.image(grey))
    return prompt


def check_request(bundle: Bundle, frames: int, height: int, width: int, steps: int, settings: Settings) -> None:
    """Refuse what cannot work, before anything heavy runs."""
    unit = bundle.codec.downscale
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"frames is {frames}; expected 1 to {MAX_FRAMES}.")
    if height % unit or width % unit or height < unit or width < unit:
        raise InputError(f"the clip would be {width}x{height}; both sides must be multiples of {unit}.")
    if frames * height * width > MAX_PIXELS:
        raise InputError(
            f"{frames} frames of {width}x{height} are {frames * height * width:,} pixels; "
            f"this pipeline takes up to {MAX_PIXELS:,}: choose fewer frames or a smaller size."
        )
    if not 1 <= steps <= 1000:
        raise InputError(f"steps is {steps}; expected 1 to 1000.")
    for name in ("image_strength", "paca_strength", "swap_strength"):
        value = getattr(settings, name)
        if not 0 <= value <= 10:
            raise InputError(f"{name} is {value}; expected 0 (off) to 10, 1 is as trained.")
    guidance = settings.guidance_scale
    if guidance is not None and not 0 <= guidance <= 100:
        raise InputError(f"guidance_scale is {guidance}; expected 0 to 100.")
    if settings.sampler is not None and settings.sampler not in SCHEDULERS:
        raise InputError(f"there is no sampler {settings.sampler!r}; choose from {', '.join(SCHEDULERS)}.")
    if not 0 <= settings.eta <= 1:
        raise InputError(f"eta is {settings.eta}; expected 0 (deterministic DDIM) to 1.")


def _strengths(settings: Settings) -> Mapping[str, float]:
    return {
        "image_adapter": settings.image_strength,
        "paca": settings.paca_strength,
        "swap_attention": settings.swap_strength,
    }


def _noise(seed: int, size: tuple[int, ...]) -> Tensor:
    """A clip's noise depends on its seed alone; longer clips start with the shorter one's frames."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def _or(value, default):
    return default if value is None else value
