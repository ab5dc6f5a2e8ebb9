"""From a clip to what a super-resolution network gets to see of it: Real-ESRGAN's second-order degradation, for clips.

(blur, resize, noise, JPEG) twice and a last low-pass (Wang et al. 2021; realesrgan_model.py, feed_data), then a round
trip through the generator's codec, whose frames the network is to repair (VideoFactory sec. 4).

Everything is drawn once for a clip, so that damage does not shimmer; noise alone is new in every frame. All random
numbers come from a generator on the CPU, and every draw takes the same number of them: a clip's damage is the same on
every device, and a setting that is changed does not change the draws of the others.

Other than in Real-ESRGAN, resizing is antialiased: aliasing crawls in motion, and no generator makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...pipelines.bundle import Codec
from ..upscaler_config import LARGEST, DegradationConfig, PassConfig
from .jpeg import jpeg
from .kernels import between, draw_blur, draw_sinc, one_of

MODES = {"area": 1.0, "bilinear": 1.0, "bicubic": 1.0}  # of resizing, equally often


@dataclass(frozen=True)
class Pass:
    """What a pass does to a clip."""

    kernel: Tensor | None  # None: no blur
    factor: float  # of both sides
    mode: str
    gaussian: bool  # else Poisson
    strength: float  # of the noise: a std of 255, or the factor on Poisson noise
    grey: bool
    quality: int | None  # None: no JPEG
    noise: Generator


def draw_pass(config: PassConfig, generator: Generator) -> Pass:
    kernel, noise = draw_blur(config, generator), fork(generator)
    numbers = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    blurs, way, factor, mode, gaussian, strength, grey, compressed, quality = numbers
    (least, most), (worst, best) = config.resize_range, config.jpeg_range
    ends = {"up": (1, most), "down": (least, 1), "keep": (1, 1)}
    is_gaussian = gaussian < config.gaussian_chance
    return Pass(
        kernel=kernel if blurs < config.blur_chance else None,
        factor=between(factor, ends[one_of(way, config.resize)]),
        mode=one_of(mode, MODES),
        gaussian=is_gaussian,
        strength=between(strength, config.noise_range if is_gaussian else config.poisson_range),
        grey=grey < config.grey_chance,
        quality=int(between(quality, (worst, best + 1))) if compressed < config.jpeg_chance else None,
        noise=noise,
    )


def fork(generator: Generator) -> Generator:
    """A generator of its own, for as many numbers as a clip's size asks for."""
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


@torch.no_grad()
def degrade(
    clip: Tensor, config: DegradationConfig, generator: Generator, scale: int = 4, codec: Codec | None = None
) -> Tensor:
    """clip (t, 3, h, w) in [0, 1] -> (t, 3, h/scale, w/scale) in [0, 1], in steps of 1/255.

    codec: images in [-1, 1] to latents and back (encode, decode, downscale); without one its damage is left out.
    """
    size = _size(clip, scale)
    first, second = draw_pass(config.first, generator), draw_pass(config.second, generator)
    low_pass, latent_noise = draw_sinc(config.second.kernel_sizes, generator), fork(generator)
    numbers = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    passes, mode, rings, jpeg_last, coded, left = numbers
    with torch.autocast(clip.device.type, enabled=False):
        if passes < config.chance:
            out = damaged(clip, first, _size(clip, 1))
            out = out if first.quality is None else jpeg(out, first.quality)
            out = damaged(out, second, size)
            # The last JPEG comes before or after resizing and low-pass; between these two it leaves bent lines.
            if second.quality is not None and jpeg_last >= 0.5:
                out = jpeg(out, second.quality)
            out = resize(out, size, one_of(mode, MODES))
            out = blurred(out, low_pass if rings < config.final_sinc_chance else None)
            if second.quality is not None and jpeg_last < 0.5:
                out = jpeg(out, second.quality)
        else:
            out = downsize(clip, scale)
        if codec is not None and coded < config.codec_chance:
            out = through_codec(out.clamp(0, 1), codec, between(left, config.latent_noise), latent_noise)
    return (out.clamp(0, 1) * 255).round() / 255


def damaged(clip: Tensor, drawn: Pass, size: tuple[int, int]) -> Tensor:
    """A pass up to its noise. size: (h, w) that the factor is of."""
    height, width = (max(1, int(side * drawn.factor)) for side in size)
    clip = resize(blurred(clip, drawn.kernel), (height, width), drawn.mode).clamp(0, 1)
    noise = gaussian_noise(clip, drawn) if drawn.gaussian else poisson_noise(clip, drawn)
    return (clip + noise).clamp(0, 1)


def downsize(clip: Tensor, scale: int) -> Tensor:
    """clip (t, 3, h, w) in [0, 1], made smaller and nothing else."""
    return resize(clip, _size(clip, scale), "bicubic").clamp(0, 1)


def resize(clip: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To size (h, w); the picture's edges stay where they are, so nothing shifts."""
    if mode == "area":
        return F.interpolate(clip, size, mode=mode)
    return F.interpolate(clip, size, mode=mode, align_corners=False, antialias=True)


def blurred(clip: Tensor, kernel: Tensor | None) -> Tensor:
    """The same kernel (21, 21) on every colour of every frame."""
    if kernel is None:
        return clip
    pad = LARGEST // 2
    mode = "reflect" if min(clip.shape[-2:]) > pad else "replicate"
    planes = F.pad(clip, [pad] * 4, mode=mode).flatten(0, 1)
    # All planes as the channels of one picture: a convolution of single channels takes ten times as long on a CPU.
    out = F.conv2d(planes[None], kernel.to(clip).expand(len(planes), 1, -1, -1), groups=len(planes))
    return out.view_as(clip)


def gaussian_noise(clip: Tensor, drawn: Pass) -> Tensor:
    frames, colours, height, width = clip.shape
    noise = torch.randn(frames, 1 if drawn.grey else colours, height, width, generator=drawn.noise)
    return noise.to(clip) * (drawn.strength / 255)


def poisson_noise(clip: Tensor, drawn: Pass) -> Tensor:
    """Shot noise: a value v has variance strength² v / n, where n is the clip's number of levels, up to a power of 2.

    As in skimage's random_noise, which Real-ESRGAN follows; n is 256 but for clips of few colours.
    """
    values = clip.cpu()
    if drawn.grey:
        values = (values * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    levels = (values * 255).round()
    count = int(levels.byte().flatten().bincount().count_nonzero())
    n = 2 ** (count - 1).bit_length()
    counts = torch.poisson(levels * (n / 255), generator=drawn.noise)
    return (counts / n - levels / 255).to(clip) * drawn.strength


def through_codec(clip: Tensor, codec: Codec, std: float, generator: Generator) -> Tensor:
    """Encoded and decoded; std: of the noise on the latents, in units of their own."""
    height, width = clip.shape[-2:]
    pixels = F.pad(clip, (0, -width % codec.downscale, 0, -height % codec.downscale), mode="replicate") * 2 - 1
    weight = next(codec.parameters())
    latents = codec.encode(pixels.to(weight))
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    images = codec.decode(latents + noise * (std * latents.float().std().item()))
    return (images[..., :height, :width].to(clip) + 1) / 2


def _size(clip: Tensor, scale: int) -> tuple[int, int]:
    height, width = clip.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"the clip is {width}x{height}; both sides must be multiples of {scale}.")
    return height // scale, width // scale
