"""Small random networks with every branch at work, for the scripts beside this file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dreamfactory.model_patches import UNetConfig, VideoUNet, save_unet
from dreamfactory.model_patches.network.config import ProjectorConfig
from dreamfactory.schedulers import SCHEDULES, ScheduleConfig

IMAGE = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(True, True),
    context_dim=24,
    head_dim=16,
    norm_groups=8,
)
VIDEO = replace(IMAGE, temporal_conv=True, temporal_attention=True)
# Both papers at once, the image seen through a pooled embedding.
FULL = replace(
    VIDEO,
    temporal_positions="sinusoidal",
    init_temporal=True,
    init_temporal_heads=2,
    init_temporal_head_dim=16,
    motion_text="added",
    motion_dim=20,
    fusion="conv",
    temporal_skips=True,
    swap_attention="swapped",
    swap_window=(4, 3, 3),
    swap_head_dim=16,
    first_frame_concat="repeat",
    paca=True,
    image_adapter="up",
    image_token_dim=28,
    image_projector=ProjectorConfig(kind="linear", embedding_dim=40, output_dim=28, queries=3),
)
# DynamiCrafter's: image tokens of each frame from the patches, a grey image in guidance, frame rate, two ends.
CRAFTER = replace(
    VIDEO,
    first_frame_concat="ends",
    image_adapter="all",
    image_scale="learnable",
    image_token_dim=28,
    image_tokens_per_frame=2,
    image_projector=ProjectorConfig(
        embedding_dim=40, output_dim=28, queries=2, dim=32, depth=1, heads=2, head_dim=16, frames=8
    ),
    frame_rate_embedding="fps",
)
# VideoFactory's, as the preset tiny-videofactory has it: text alone, Swap-CA, sums by convolution around it.
TEXT = replace(
    VIDEO,
    temporal_positions="sinusoidal",
    fusion="conv_except_swap",
    temporal_skips=True,
    swap_attention="swapped",
    swap_window=(4, 3, 6),
    swap_head_dim=16,
)

# Stable Diffusion's two generations, small, and what a temporal file adds to them.
SD1 = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(True, True),
    context_dim=24,
    num_heads=8,
    head_dim=None,
    linear_projection=False,
)
SD2 = replace(SD1, model_channels=64, num_heads=None, head_dim=64, linear_projection=True)
TEMPORAL = {"temporal_conv": True, "temporal_attention": True, "temporal_positions": "sinusoidal"}

PLAIN = SCHEDULES["stable-diffusion"]
SHIFTED = ScheduleConfig(trained_shape=(8, 128, 128))
TINY = ScheduleConfig(shift_reference=64.0, trained_shape=(8, 64, 64))  # of the presets of the tiny world


def random_network(config: UNetConfig, seed: int = 0) -> VideoUNet:
    """A network that no branch leaves as it was: gates, zero-initialised outputs and all biases are random."""
    generator = torch.Generator().manual_seed(seed)
    unet = VideoUNet(config)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            spread = 0.2 if weight.ndim < 2 else weight[0].numel() ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1)
    return unet.eval()


def save_network(folder: Path, name: str, config: UNetConfig, schedule: ScheduleConfig, seed: int = 0) -> Path:
    path = folder / f"{name}.safetensors"
    save_unet(random_network(config, seed), path, schedule=schedule.to_dict())
    return path


def inputs_for(config: UNetConfig, frames: int, size: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Noise, and all that the network looks at on both sides of guidance; latents are on the network's own scale."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latent = (config.in_channels, *size)
    found = {"noise": randn(frames, *latent), "text": randn(1, 7, config.context_dim)}
    found["uncond_text"] = randn(1, 7, config.context_dim)
    if config.motion_text != "off":
        found |= {"motion": randn(1, 5, config.motion_dim), "uncond_motion": randn(1, 5, config.motion_dim)}
    if config.first_frame_concat != "off":
        found["first_frame"] = randn(1, *latent)
    if config.first_frame_concat == "ends":
        found["last_frame"] = randn(1, *latent)
    if config.image_projector is not None:
        width = config.image_projector.embedding_dim
        shape = (1, width) if config.image_projector.kind == "linear" else (1, 6, width)
        found |= {"image": randn(*shape), "grey_image": randn(*shape)}
    return found


def save_kl_vae(folder: Path, scaling_factor: float = 0.3, width: int = 32):
    """A small AutoencoderKL of random weights in a folder as diffusers writes it; Stable Diffusion's shape."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [width, 2 * width, 2 * width, 2 * width],
    }
    vae = AutoencoderKL(**blocks, layers_per_block=2, scaling_factor=scaling_factor).eval()
    vae.save_pretrained(folder)
    return vae
