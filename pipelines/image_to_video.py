"""Captions, and a still picture where the network reads one -> a clip, headless.

latents of the picture, image tokens, text (CLIP), motion text (T5)  ->  denoise  ->  frames    Factorized-Dreamer
text (CLIP)  ->  denoise  ->  frames                                                           VideoFactory
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from ..model_patches import UNetConfig
from ..model_patches.network.long_clip import animates_picture, default_overlap, pieces, trained_length
from .bundle import Bundle
from .encoders import one_caption
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
    context_length: int | None = None  # frames that the network sees at once; None: as many as it was trained with
    context_overlap: int | None = None  # frames that a piece takes over from the one before; None: `default_overlap`
    image_strength: float = 1.0
    paca_strength: float = 1.0
    swap_strength: float = 1.0


@torch.no_grad()
def animate(
    bundle: Bundle,
    images: Tensor | None = None,
    text: Sequence[str] = (),
    motion: Sequence[str] = (),
    settings: Settings | None = None,
    *,
    size: tuple[int, int] | None = None,
    negative: Sequence[str] = (),
    negative_motion: Sequence[str] = (),
    seeds: Sequence[int] = (),
    last_images: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Bring first frames to life; or make clips of captions alone, where the network reads no picture.

    images: (b, 3, h, w) in [0, 1], sides multiples of the codec's; None for a network that reads none. text: what is
    seen, motion: what happens, one each per clip. size: (h, w) in pixels where there are no images; None: the bundle's.
    negative, negative_motion: what to stay away from, of guidance's other half; () is the empty prompt. seeds: one a
    clip; () counts on from the settings' own. Returns clips (b, t, 3, h, w) in [0, 1]. The same seed gives the same
    clip, whatever else is in the batch. on_step(done, total) is called after every step. Raises InputError with one
    sentence.
    """
    settings, defaults, config = settings or Settings(), bundle.defaults, bundle.unet.config
    frames = defaults.frames if settings.frames is None else settings.frames
    steps = defaults.steps if settings.steps is None else settings.steps
    check_settings(settings)
    if images is None and reads_picture(config):
        raise InputError(f"{bundle.name} animates a picture, and there is none; give a first frame.")
    if images is None and not text and not motion:
        raise InputError(f"{bundle.name} makes video from captions alone, and there are none; give text.")
    height, width = images.shape[-2:] if images is not None else size or (defaults.height, defaults.width)
    check_size(bundle, frames, height, width)
    batch = len(text or motion) if images is None else len(images)
    empty = [""] * batch

    prompt = encode(
        bundle, images, text or empty, motion or empty, settings, last_images, negative or empty,
        negative_motion or empty,
    )  # fmt: skip
    length, overlap = seen_at_once(bundle, settings, frames)
    plan = pieces(frames, length, overlap, config.first_frame_reach)
    schedule = bundle.schedule.build(plan[0].length, height, width)
    shape = (config.in_channels, height // bundle.codec.downscale, width // bundle.codec.downscale)
    seeds = seeds or [settings.seed + i for i in range(batch)]
    bundle.turn(bundle.unet)
    picture = prompt.first_frame
    done: Tensor | None = None
    for number, piece in enumerate(plan):
        # One stream of random numbers a clip and piece: first its noise, then what a sampler adds on the way.
        generators = [torch.Generator().manual_seed(seed + number) for seed in seeds]
        noise = torch.cat([torch.randn((piece.length, *shape), generator=g) for g in generators])
        if piece.known and done is not None:
            prompt.first_frame = picture if piece.picture == 0 else done[:, piece.picture]
            prompt.known, prompt.distance = done[:, piece.start :], piece.distance
        with _blamed(bundle):
            made = sample(
                bundle.unet,
                schedule,
                prompt,
                noise.to(prompt.text),
                piece.length,
                steps=steps,
                guidance_scale=_or(settings.guidance_scale, defaults.guidance_scale),
                guidance_rescale=_or(settings.guidance_rescale, bundle.schedule.guidance_rescale),
                sampler=settings.sampler or defaults.sampler,
                spacing=bundle.schedule.spacing,
                eta=settings.eta,
                generators=generators,
                on_step=None if on_step is None else _counted(on_step, number, len(plan)),
            ).unflatten(0, (batch, piece.length))
        done = made if done is None else torch.cat([done, made[:, piece.known :]], dim=1)
    assert done is not None  # a plan has a piece
    latents = done[:, :frames].flatten(0, 1)
    bundle.turn(bundle.codec)
    pixels = bundle.codec.decode(latents.to(next(bundle.codec.parameters()))).float()
    if not torch.isfinite(pixels).all():
        raise InputError(damage(bundle) or "the VAE made numbers that are no picture; try bf16 or fp32.")
    return rearrange((pixels + 1) / 2, "(b t) c h w -> b t c h w", t=frames).clamp(0, 1).cpu()


def damage(bundle: Bundle) -> str | None:
    """Which part of a bundle has weights that are no numbers, in a sentence: asked where no picture came out."""
    parts = {"network": bundle.unet, "VAE": bundle.codec, "text encoder": bundle.text}
    parts |= {"motion encoder": bundle.motion, "image encoder": bundle.image}
    for what, part in parts.items():
        for key, weight in part.state_dict().items() if part is not None else ():
            if weight.is_floating_point() and not torch.isfinite(weight.float()).all():
                return (
                    f"the {what} of {bundle.name} is damaged: {key} holds numbers that are none (NaN or infinity); "
                    "copy or download its file again."
                )
    return None


@contextmanager
def _blamed(bundle: Bundle) -> Iterator[None]:
    """Let a sampler that found no picture blame weights that are no numbers."""
    try:
        yield
    except InputError as error:
        told = damage(bundle)
        if told is None:
            raise
        raise InputError(told) from error


def _counted(on_step: Callable[[int, int], None], number: int, count: int) -> Callable[[int, int], None]:
    """Steps of one piece as steps of the whole clip."""
    return lambda done, total: on_step(number * total + done, count * total)


def seen_at_once(bundle: Bundle, settings: Settings, frames: int) -> tuple[int, int]:
    """How many of a clip's frames the network sees at once, and how many a piece takes over from the one before.

    A network that animates a picture goes on from its last frames where the clip is longer than it was trained for.
    """
    config, length = bundle.unet.config, settings.context_length
    if length is None:
        trained = trained_length(config, bundle.schedule.trained_shape)
        length = min(frames, trained) if animates_picture(config) and trained > 1 else frames
    overlap = default_overlap(config, length) if settings.context_overlap is None else settings.context_overlap
    if length < frames and config.first_frame_concat == "ends":
        raise InputError(
            f"{bundle.name} joins two pictures and sees all frames of a clip at once; leave context_length out."
        )
    if length < frames and length == 1:
        raise InputError("context_length is 1; a piece of 1 frame cannot go on from another: give 2 or more.")
    if length < frames and not 1 <= overlap < length:
        raise InputError(
            f"context_overlap is {overlap}; pieces of {length} frames take over 1 to {length - 1} from the one before."
        )
    return length, overlap


def reads_picture(config: UNetConfig) -> bool:
    """Whether a network looks at a first frame, in any of its ways; the others make video from text alone."""
    return config.first_frame_concat != "off" or config.paca or config.image_adapter != "off"


@torch.no_grad()
def encode(
    bundle: Bundle,
    images: Tensor | None,
    text: Sequence[str],
    motion: Sequence[str],
    settings: Settings,
    last_images: Tensor | None = None,
    negative: Sequence[str] | None = None,
    negative_motion: Sequence[str] | None = None,
) -> Prompt:
    """Run every encoder once, each in its turn; what comes out lies where the network is."""
    config = bundle.unet.config
    negative, negative_motion = negative or [""] * len(text), negative_motion or [""] * len(text)
    if config.motion_text == "off":  # one prompt says it all
        text = [one_caption(*pair) for pair in zip(text, motion, strict=True)]
        negative = [one_caption(*pair) for pair in zip(negative, negative_motion, strict=True)]
    bundle.turn(bundle.text)
    prompt = Prompt(
        text=bundle.text(list(text)),
        uncond_text=bundle.text(list(negative)),
        frame_rate=settings.frame_rate,
        strengths=_strengths(settings),
    )
    if bundle.motion is not None and config.motion_text != "off":
        bundle.turn(bundle.motion)
        prompt.motion, prompt.uncond_motion = bundle.motion(list(motion)), bundle.motion(list(negative_motion))
    if images is not None:
        bundle.turn(bundle.codec)
        like = next(bundle.codec.parameters())
        prompt.first_frame = bundle.codec.encode(images.to(like) * 2 - 1)
        if last_images is not None:
            prompt.last_frame = bundle.codec.encode(last_images.to(like) * 2 - 1)
    features = blank = None
    if images is not None and bundle.image is not None and config.image_projector is not None:
        bundle.turn(bundle.image)
        features = bundle.image(images)
        means = bundle.defaults.uncond_image or config.uncond_image
        blank = None if means == "same" else bundle.image.blank(means, features)
    bundle.turn(bundle.unet)
    like = next(bundle.unet.parameters())
    if features is not None:
        prompt.image_tokens = bundle.unet.project_image(features.to(like))
        if blank is not None:
            prompt.uncond_image_tokens = bundle.unet.project_image(blank.to(like))
    return prompt.to(like)


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
        "context_length": (1, MAX_FRAMES),
        "context_overlap": (1, MAX_FRAMES),
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
