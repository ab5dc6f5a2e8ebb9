"""A new network that starts equal to a trained one: how every training stage of both papers begins.

Shared weights are copied; every added branch is zero at its output, PredictNet starts as a copy of the decoder.
"""

from __future__ import annotations

import torch

from ...errors import CheckpointError, some
from ..network.config import UNetConfig
from ..network.layout import layout
from ..network.parts import part_of
from ..network.unet import VideoUNet
from .converters.report import Report

SPATIAL_FIELDS = (
    "in_channels",
    "out_channels",
    "model_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_levels",
    "context_dim",
    "norm_groups",
)
# Fields without weights that change what existing weights compute, by the field that says the branch exists.
SHAPERS = {
    "temporal_attention": ("temporal_positions", "temporal_norm"),
    "init_temporal": ("init_temporal_heads", "init_temporal_head_dim"),
    "swap_attention": ("swap_attention", "swap_window", "swap_shift", "swap_head_dim"),
    "image_adapter": ("image_tokens_per_frame",),
    "paca": ("paca_positions",),
    "first_frame_concat": ("first_frame_concat",),
    "frame_rate_embedding": ("frame_rate_embedding",),
}
FIRST_CONVOLUTION = "input_blocks.0.0.weight"


def extend(source: VideoUNet, config: UNetConfig) -> tuple[VideoUNet, Report]:
    """A network of `config` that computes at its start what `source` does, and what was done for that.

    The new network is in training mode, on the source's device and of its dtype; the source stays as it is. In the
    report, `loaded` are the copied weights and `missing` those that start fresh. Linear projections take 1x1
    convolutions and the other way round.
    Raises CheckpointError with a sentence if the spatial halves do not fit, or if the source has a branch that the
    config lacks or shapes otherwise, so that the two could not be equal.
    """
    check_extends(source.config, config)
    like = next(source.parameters())
    unet = VideoUNet(config, dtype=like.dtype, device=like.device)
    report = Report("warm start")
    own, given = unet.state_dict(), source.state_dict()
    for key, weight in given.items():
        if key not in own:
            report.unexpected.append(key)
            continue
        target = own[key]
        if target.shape != weight.shape:
            if key == FIRST_CONVOLUTION and weight.shape[1] < target.shape[1]:
                channels = target.shape[1] - weight.shape[1]
                weight = torch.cat([weight, weight.new_zeros(len(weight), channels, *weight.shape[2:])], dim=1)
                report.notes.append(f"the first convolution has {channels} more input channels, zero")
            elif weight.squeeze().shape == target.squeeze().shape:
                weight = weight.reshape(target.shape)
            else:
                raise CheckpointError(
                    f"{key} is {tuple(weight.shape)} in the source and {tuple(target.shape)} in the new network; "
                    f"keep the config fields of {part_of(key)} as the source has them."
                )
            report.reshaped.append(key)
        with torch.no_grad():
            target.copy_(weight)
        report.loaded.append(key)

    # What is not computed in the output may go: PredictNet after its training stage, and the projector.
    lost = [k for k in report.unexpected if not k.startswith(("predict_net.", "image_projector."))]
    if lost:
        raise CheckpointError(
            f"the new network would lose {len(lost)} weights of the source ({some(lost)}) and could not start equal "
            f"to it; keep the config fields of {part_of(lost[0])} as the source has them."
        )
    copied = set(report.loaded)
    report.missing = [k for k in own if k not in copied]
    if config.predict_net and not source.config.predict_net:
        unet.start_predict_net()
        report.notes.append("PredictNet starts as a copy of the decoder")
    fresh = sorted({part_of(k) for k in report.missing})
    if fresh:
        report.notes.append(f"new, and without effect at first: {', '.join(fresh)}")
    unet.schedule = source.schedule
    return unet, report


def check_extends(source: UNetConfig, config: UNetConfig) -> None:
    """Raise CheckpointError with a sentence unless a network of `config` can start equal to one of `source`."""
    differing = [name for name in SPATIAL_FIELDS if getattr(source, name) != getattr(config, name)]
    positions = layout(source).outputs
    if not differing and any(source.heads(p.channels) != config.heads(p.channels) for p in positions):
        differing = ["num_heads" if source.num_heads != config.num_heads else "head_dim"]
    both_attend = source.temporal_attention and config.temporal_attention
    if both_attend and any(source.temporal_heads(p.channels) != config.temporal_heads(p.channels) for p in positions):
        differing.append("temporal_num_heads")
    off = UNetConfig()
    for switch, names in SHAPERS.items():
        if getattr(source, switch) != getattr(off, switch):
            differing += [name for name in names if getattr(source, name) != getattr(config, name)]
    if source.temporal_attention and source.motion_text != config.motion_text and "replace" in (
        source.motion_text, config.motion_text
    ):  # fmt: skip
        differing.append("motion_text")
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{name} is {getattr(source, name)} in the source and {getattr(config, name)} in the new network, which "
            f"could not start equal to it; set {name} to {getattr(source, name)}."
        )
