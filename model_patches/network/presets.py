"""Networks by name. Presets are data: differences from `UNetConfig`'s defaults (SD 2.1's spatial half)."""

from __future__ import annotations

from dataclasses import replace

from ...errors import ConfigError
from .config import ProjectorConfig, UNetConfig

SD15 = UNetConfig(context_dim=768, num_heads=8, head_dim=None, linear_projection=False)
SD21 = UNetConfig()
# v2; v1 and v3 are without its middle.
ANIMATEDIFF = replace(
    SD15,
    temporal_attention=True,
    temporal_attention_levels=(True, True, True, True),
    temporal_num_heads=8,
    temporal_positions="sinusoidal",
    temporal_norm="frame",
)
MODELSCOPE = UNetConfig(temporal_conv=True, temporal_attention=True, init_temporal=True)

VIDEOFACTORY_BASE = replace(MODELSCOPE, fusion="conv", temporal_skips=True)
VIDEOFACTORY = replace(VIDEOFACTORY_BASE, swap_attention="swapped")

VIDEOCRAFTER2 = replace(MODELSCOPE, frame_rate_embedding="fps", frame_rate_default=16)
VIDEOCRAFTER1_I2V = replace(
    VIDEOCRAFTER2, image_adapter="all", image_projector=ProjectorConfig(), image_uncond="grey", frame_rate_default=8
)
DYNAMICRAFTER_512 = replace(
    VIDEOCRAFTER2,
    first_frame_concat="repeat",
    image_adapter="all",
    image_tokens_per_frame=16,
    image_projector=ProjectorConfig(frames=16),
    image_uncond="grey",
    frame_rate_default=24,
)

# Factorized-Dreamer is DynamiCrafter's idea plus PACA, T5 motion text and (in its last stage) PredictNet.
FACTORIZED_DREAMER = replace(
    MODELSCOPE,
    first_frame_concat="repeat",
    paca=True,
    motion_text="added",
    image_adapter="up",
    image_projector=ProjectorConfig(),
)

PRESETS: dict[str, UNetConfig] = {
    "sd15": SD15,
    "sd21": SD21,
    "animatediff": ANIMATEDIFF,
    "modelscope": MODELSCOPE,
    "videofactory-base": VIDEOFACTORY_BASE,
    "videofactory": VIDEOFACTORY,
    "videocrafter2": VIDEOCRAFTER2,
    "videocrafter1-i2v": VIDEOCRAFTER1_I2V,
    "dynamicrafter-256": replace(
        DYNAMICRAFTER_512, frame_rate_embedding="stride", frame_rate_default=3, image_scale="learnable"
    ),
    "dynamicrafter-512": DYNAMICRAFTER_512,
    "dynamicrafter-512-interp": replace(DYNAMICRAFTER_512, first_frame_concat="ends", frame_rate_default=5),
    "dynamicrafter-1024": replace(DYNAMICRAFTER_512, frame_rate_default=10),
    "factorized-dreamer": FACTORIZED_DREAMER,
    "factorized-dreamer-predictnet": replace(FACTORIZED_DREAMER, predict_net=True),
    # Both papers at once.
    "dreamfactory": replace(FACTORIZED_DREAMER, fusion="conv", temporal_skips=True, swap_attention="swapped"),
    # A few million parameters for a laptop's CPU and the demo: two levels on 8x8 latents of 12 channels.
    # GroupNorm(32) on 48 channels would remove most of what a channel says, hence few groups.
    "tiny": UNetConfig(
        in_channels=12,
        out_channels=12,
        model_channels=48,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(True, True),
        context_dim=64,
        head_dim=24,
        norm_groups=8,
        temporal_conv=True,
        temporal_attention=True,
        temporal_positions="sinusoidal",
        motion_text="added",
        motion_dim=64,
        first_frame_concat="repeat",
        paca=True,
        image_adapter="up",
        image_token_dim=64,
        image_projector=ProjectorConfig(kind="linear", embedding_dim=64, output_dim=64, queries=4),
        swap_head_dim=24,
        swap_window=(4, 3, 6),
    ),
}

# What pruned public files do not say of themselves: releases of one shape that differ in noise or in first-frame
# channels. Fields of config and schedule, by preset.
OVERRIDES: dict[str, dict] = {
    "dynamicrafter-512": {"signal_scale": 0.7},
    "dynamicrafter-1024": {"signal_scale": 0.3},
    "dynamicrafter-512-interp": {"signal_scale": 0.7, "first_frame_concat": "ends"},
}


def preset(name: str) -> UNetConfig:
    """The config of a named network; raises ConfigError with the known names."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}.") from None
