"""Our small image codec (model_patches/codec.py) as the host's VAE, with the latent format for previews.

    encode   images (b, h, w, 3) in [0, 1]  ->  latents (b, z, h/8, w/8), already at the network's scale
    decode   latents                        ->  images

Encoding, decoding, tiling and memory are the host's methods; only what they read is set here.
"""

from __future__ import annotations

from pathlib import Path

import comfy.latent_formats
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch

from ...model_patches.codec import PatchAutoencoder, load_codec

# Floats held at once per pixel, twice what was measured (30 decoding): a few 32-channel maps at half the sides.
ENCODE_FLOATS = 8
DECODE_FLOATS = 64


class CodecVAE(comfy.sd.VAE):
    """The host's VAE around a PatchAutoencoder. The host's own constructor recognises networks by weights it knows."""

    def __init__(self, codec: PatchAutoencoder) -> None:
        self.first_stage_model = codec
        self.latent_channels, self.latent_dim = codec.latent_channels, 2
        self.downscale_ratio = self.upscale_ratio = codec.downscale
        self.output_channels, self.pad_channel_value = 3, None
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)  # in place: the host's contract
        self.memory_used_encode = lambda shape, dtype: (
            ENCODE_FLOATS * shape[2] * shape[3] * management.dtype_size(dtype)
        )
        self.memory_used_decode = lambda shape, dtype: (
            DECODE_FLOATS * shape[2] * shape[3] * codec.downscale**2 * management.dtype_size(dtype)
        )

        # An image codec of whole weights, without the time axis or tiling of its own that others have.
        self.downscale_index_formula = self.upscale_index_formula = None
        self.extra_1d_channel = None
        self.crop_input = True
        self.not_video = self.handles_tiling = False
        self.format_encoded = None
        self.audio_sample_rate = 44100
        self.size = None

        self.device = management.vae_device()
        self.output_device = management.intermediate_device()
        self.vae_dtype = next(codec.parameters()).dtype
        self.working_dtypes = [self.vae_dtype]
        # A quarter of a million weights: loaded whole, and moved away as a whole.
        self.disable_offload = True
        management.archive_model_dtypes(codec)
        self.patcher = comfy.model_patcher.ModelPatcher(
            codec, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.model_size()


def load_codec_vae(path: str | Path) -> CodecVAE:
    """A VAE socket from a codec's file. Raises CheckpointError with one sentence."""
    # float32 unless the host is told otherwise: the network is too small for half precision to save anything.
    dtype = management.vae_dtype(management.vae_device(), [torch.float32])
    vae = CodecVAE(
        load_codec(path, operations=comfy.ops.manual_cast, dtype=dtype, device=management.vae_offload_device())
    )
    vae.patcher.cached_patcher_init = (_patcher, (path,))  # for a second copy, on another device
    return vae


def _patcher(path: str | Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_codec_vae(path).patcher


class CodecLatents(comfy.latent_formats.LatentFormat):
    """Latents (b, z, h, w) that need no scale: it lies in the codec's weights."""

    scale_factor = 1.0

    def __init__(
        self,
        latent_channels: int,
        rgb: tuple[list[list[float]], list[float]] | None = None,
        downscale: int = 8,
    ) -> None:
        self.latent_channels = latent_channels
        self.spacial_downscale_ratio = downscale
        if rgb is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb


def codec_latent_format(codec: PatchAutoencoder) -> CodecLatents:
    return CodecLatents(codec.latent_channels, rgb_factors(codec), codec.downscale)


@torch.no_grad()
def rgb_factors(codec: PatchAutoencoder) -> tuple[list[list[float]], list[float]]:
    """The decoder as one linear map, for previews: colours (r, g, b) in [-1, 1] = latent @ factors (z, 3) + bias (3).

    Each factor is the mean colour of a cell that a unit of its channel makes there, all other latents zero.
    """
    like = next(codec.parameters())
    z, side, middle = codec.latent_channels, 9, 4  # far enough from the border, which the decoder sees as zeros
    latents = torch.zeros(z + 1, z, side, side, device=like.device, dtype=like.dtype)
    latents[range(z), range(z), middle, middle] = 1
    cell = slice(middle * codec.downscale, (middle + 1) * codec.downscale)
    colours = codec.decode(latents)[:, :, cell, cell].mean((2, 3)).float()
    return (colours[:z] - colours[z]).tolist(), colours[z].tolist()
