"""Which weights and which config fields belong to which part of the network, as data.

The parameter report, the patch files (only PACA, only Swap-CA, ...) and what a training stage trains all read
this one table.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...errors import CheckpointError


@dataclass(frozen=True)
class Part:
    """A part: first components of its keys, and the config fields that switch and shape it."""

    prefixes: tuple[str, ...]
    fields: tuple[str, ...]


PARTS: dict[str, Part] = {
    "spatial": Part(
        ("time_embed", "input_blocks", "middle_block", "output_blocks", "out"),
        ("first_frame_concat",),
    ),
    "temporal": Part(
        ("temporal_convs", "temporal_attentions", "init_temporal"),
        (
            "temporal_conv",
            "temporal_attention",
            "temporal_attention_levels",
            "temporal_attention_middle",
            "temporal_num_heads",
            "temporal_positions",
            "temporal_norm",
            "init_temporal",
            "init_temporal_heads",
            "init_temporal_head_dim",
        ),
    ),
    "motion_text": Part(("motion_attentions",), ("motion_text", "motion_dim")),
    "fusion": Part(("conv_fusions", "attention_fusions"), ("fusion",)),
    "temporal_skips": Part(("temporal_skips",), ("temporal_skips",)),
    "swap_attention": Part(
        ("swap_attentions",), ("swap_attention", "swap_window", "swap_shift", "swap_head_dim", "fusion")
    ),
    "image_adapter": Part(
        ("image_adapters", "image_projector"),
        (
            "image_adapter",
            "image_token_dim",
            "image_tokens_per_frame",
            "image_scale",
            "image_projector",
            "image_uncond",
        ),
    ),
    "paca": Part(("paca_attentions", "paca_pyramid"), ("paca", "paca_positions")),
    "frame_rate": Part(("frame_rate_embedding",), ("frame_rate_embedding", "frame_rate_default")),
    "predict_net": Part(("predict_net",), ("predict_net", "flow_channels")),
}

_OWNER = {prefix: name for name, part in PARTS.items() for prefix in part.prefixes}


def part_of(key: str) -> str:
    """The part a weight belongs to, from the first component of its key."""
    return _OWNER[key.split(".", 1)[0]]


def known_part(name: str) -> Part:
    if name not in PARTS:
        raise CheckpointError(f"there is no part {name!r}; choose from {', '.join(PARTS)}.")
    return PARTS[name]


def count_parameters(unet: nn.Module) -> dict[str, int]:
    """Parameters by part, as {part: count}; `image_projector`, which runs once outside the loop, by itself."""
    counts: dict[str, int] = {}
    for key, weight in unet.named_parameters():
        name = "image_projector" if key.startswith("image_projector.") else part_of(key)
        counts[name] = counts.get(name, 0) + weight.numel()
    return counts
