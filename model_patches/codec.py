"""A small image auto-encoder that starts as the principal components of 8x8 patches.

    encode: images (n, 3, h, w) in [-1, 1]  ->  latents (n, z, h/8, w/8), mean 0, overall std 1
    decode: latents                         ->  images

The encoder is one linear map of each patch. The decoder adds two parts: the transposed linear map, which
alone gives the closed-form PCA reconstruction, and a residual branch that sees neighbouring patches, first at
latent resolution, then at half the image's resolution together with the linear reconstruction. The residual
branch starts at zero, so an untrained codec is exactly PCA, and training takes CPU minutes where a
convolutional VAE from scratch takes GPU hours.

The latents' mean and scale live in the weights: no scaling factor is needed outside. Each principal component
is scaled by std^-1/2 ("half-whitening", between PCA's own scale, where noise hides the weak components, and
full whitening, where their noise costs as much as the strong ones'), then all by one number.

Nothing here but Conv2d and pixel shuffles; `operations` is the namespace that Conv2d is taken from.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, shown, some
from .checkpoints.files import PATCH_CODEC, read_header, read_weights, settings, write
from .checkpoints.save import check_weights

MOST = {"latent_channels": 4096, "patch": 64, "latent_width": 8192, "detail_width": 8192}


@dataclass(frozen=True)
class PatchCodecConfig:
    """Sizes of a PatchAutoencoder."""

    latent_channels: int = 12
    patch: int = 8  # the downscale; divisible by 2
    latent_width: int = 96  # channels of the residual branch at latent resolution
    detail_width: int = 32  # and at half the image's resolution

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"the codec's {name} is {shown(value)}; expected a whole number, 1 to {most}.")
        if self.patch % 2:
            raise ConfigError(f"the codec's patch is {self.patch}; expected an even number of pixels.")


class PatchAutoencoder(nn.Module):
    """Encode images to latents and back; see the module's description for shapes and ranges."""

    scaling_factor = 1.0

    def __init__(
        self,
        config: PatchCodecConfig | None = None,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        config = config or PatchCodecConfig()
        self.config = config
        self.latent_channels = z = config.latent_channels
        self.downscale = patch = config.patch
        wide, thin, half = config.latent_width, config.detail_width, patch // 2

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
            padding = kernel // 2 if stride == 1 else 0
            return operations.Conv2d(inputs, outputs, kernel, stride, padding, dtype=dtype, device=device)

        self.analysis = conv(3, z, patch, stride=patch)
        self.synthesis = conv(z, 3 * patch**2, 1)
        self.latent_in = conv(z, wide, 3)
        self.latent_blocks = nn.ModuleList([conv(wide, wide, 3) for _ in range(2)])
        self.latent_out = conv(wide, thin // 2 * half**2, 1)
        self.detail_in = conv(thin // 2 + 12, thin, 3)
        self.detail_blocks = nn.ModuleList([conv(thin, thin, 3) for _ in range(3)])
        self.detail_out = conv(thin, 12, 3)
        nn.init.zeros_(self.detail_out.weight)
        nn.init.zeros_(_bias(self.detail_out))

    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [-1, 1] to latents (n, z, h/8, w/8)."""
        height, width = images.shape[-2:]
        if height % self.downscale or width % self.downscale:
            raise ValueError(
                f"The codec takes images whose sides are multiples of {self.downscale} pixels, "
                f"not {width}x{height}: crop or resize the image first."
            )
        return self.analysis(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, z, h/8, w/8) to images (n, 3, h, w), about [-1, 1], not clamped."""
        linear = self.decode_linear(latents)
        return linear + self.decode_residual(latents, linear)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The transposed linear map alone: the PCA reconstruction of an untrained codec."""
        return F.pixel_shuffle(self.synthesis(latents), self.downscale)

    def decode_residual(self, latents: Tensor, linear: Tensor) -> Tensor:
        """What the linear reconstruction (n, 3, h, w) lacks, seen from the latents and from itself."""
        x = F.silu(self.latent_in(latents))
        for block in self.latent_blocks:
            x = x + F.silu(block(x))
        x = F.pixel_shuffle(self.latent_out(x), self.downscale // 2)
        x = F.silu(self.detail_in(torch.cat([x, F.pixel_unshuffle(linear, 2)], dim=1)))
        for block in self.detail_blocks:
            x = x + F.silu(block(x))
        return F.pixel_shuffle(self.detail_out(x), 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    @torch.no_grad()
    def set_principal_components(self, mean: Tensor, components: Tensor, std: Tensor) -> None:
        """Start from a PCA of patches flattened as (3, patch, patch).

        mean (3p²,), components (z, 3p²) with orthonormal rows, std (z,) of the patches' coordinates.
        """
        z, p = self.latent_channels, self.downscale
        # Half-whitening leaves channel i a std of sqrt(std_i); the common factor makes their mean square 1.
        scale = std.clamp(min=1e-6).rsqrt() / std.mean().sqrt()
        self.analysis.weight.copy_((components * scale[:, None]).view(z, 3, p, p))
        _bias(self.analysis).copy_(-(components @ mean) * scale)
        self.synthesis.weight.copy_((components.T / scale)[:, :, None, None])
        _bias(self.synthesis).copy_(mean)

    @torch.no_grad()
    def rescale_latents(self, mean: Tensor, std: Tensor) -> None:
        """Fold into the weights that latents of this mean and std (z,) get mean 0 and half-whitened scales.

        Decoding undoes it, exactly but for a border of one latent cell, where zero padding means another
        latent than before.
        """
        scale = std.clamp(min=1e-6).rsqrt() / std.mean().sqrt()
        self.analysis.weight.mul_(scale[:, None, None, None])
        _bias(self.analysis).sub_(mean).mul_(scale)
        for layer in (self.synthesis, self.latent_in):
            _bias(layer).add_(layer.weight.sum((2, 3)) @ mean)
            layer.weight.div_(scale[:, None, None])


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # every layer of the codec has one
    return layer.bias


def save_codec(codec: PatchAutoencoder, path: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write the codec's weights and sizes to one safetensors file, whole or not at all."""
    write(path, codec.state_dict(), {PATCH_CODEC: json.dumps(asdict(codec.config))}, dtype)


def load_codec(
    path: str | os.PathLike,
    operations: Any = nn,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str | None = None,
) -> PatchAutoencoder:
    """Read a file of `save_codec`, weights in `dtype` (None: as stored), in eval mode without gradients.

    Raises CheckpointError with one sentence.
    """
    header = read_header(path)
    if PATCH_CODEC not in header.metadata:
        raise CheckpointError(f"{path} is no codec of ours: its header does not say so; give the codec's own file.")
    try:
        config = PatchCodecConfig(**settings(header.metadata, PATCH_CODEC))
    except (TypeError, ConfigError) as error:
        told = some([str(error).rstrip(".")])
        raise CheckpointError(f"the codec sizes in the header of {path} cannot be read ({told}).") from error
    weights = read_weights(path)
    check_weights(PatchAutoencoder(config, device="meta").state_dict(), weights, str(path))
    codec = PatchAutoencoder(config, operations, dtype or next(iter(weights.values())).dtype, device)
    codec.load_state_dict(weights, strict=True)
    return codec.eval().requires_grad_(False)
