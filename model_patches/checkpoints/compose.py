"""Networks put together: parts of one file on the network of another, as plain configs and weights.

    apply_patch    a network with a patch file's parts
    merge_patch    a patch file's parts on any base
    merge_motion   the motion of a video network, or of a temporal patch, on a Stable Diffusion base

Whether the result fits together to the last weight is for `checkpoint.check_weights` to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError
from ..network.attention import Attention
from ..network.config import UNetConfig
from ..network.parts import PARTS, known_part, part_of
from ..network.unet import VideoUNet
from .files import Reader, read_header, read_weights
from .load import is_patch, read_network, read_patch
from .save import build
from .warm_start import FIRST_CONVOLUTION

Weights = dict[str, Tensor]

# What must be equal for parts to find their places on another network.
SHAPE = ("in_channels", "model_channels", "channel_mult", "num_res_blocks", "attention_levels", "norm_groups")


def apply_patch(
    unet: VideoUNet, path: str | os.PathLike, *, operations: Any = nn, attention: Attention | str = "sdpa"
) -> VideoUNet:
    """A new network: the base with the parts of a patch file added or replaced, in the host's operations.

    path: a patch of ours, or AnimateDiff's or IP-Adapter's, converted in memory. The base stays as it is. Strict:
    every weight of the patch must have its place. A temporal half brings the noise schedule it was trained with.
    """
    like = next(iter(unet.parameters()))
    other, schedule, added, parts = read_patch(path)
    config, weights = _merge(unet.config, unet.state_dict(), other, added, parts, path)
    weights = {k: v.detach().to(like, copy=True) for k, v in weights.items()}
    patched = build(config, weights, f"{path} on this base", operations=operations, attention=attention)
    patched.schedule = schedule if "temporal" in parts and schedule is not None else unet.schedule
    return patched.eval()


def merge_patch(
    config: UNetConfig, state: Mapping[str, Tensor], path: str | os.PathLike, read: Reader = read_weights
) -> tuple[UNetConfig, Weights]:
    """Config and weights of a base with the parts of a patch file added or replaced. read: how a file is read."""
    other, _, added, parts = read_patch(path, read)
    return _merge(config, state, other, added, parts, path)


def _merge(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    other: UNetConfig,
    added: Weights,
    parts: list[str],
    path: str | os.PathLike,
) -> tuple[UNetConfig, Weights]:
    merged = _adopt(config, other, parts, path)
    return merged, {**_kept(state, merged), **added}


def merge_motion(
    config: UNetConfig, state: Mapping[str, Tensor], path: str | os.PathLike, read: Reader = read_weights
) -> tuple[UNetConfig, Weights, dict | None]:
    """Config, weights and noise schedule of an image base that takes over all that another file adds to one.

    path: a video network or a patch with a temporal half, ours or a public one, converted in memory. The base's
    spatial weights stay; where the video network reads the first frame through extra input channels, the first
    convolution takes over the weights of those channels.
    """
    if is_patch(read_header(path)):
        other, schedule, added, parts = read_patch(path, read)
        merged, weights = _merge(config, state, other, added, parts, path)
        if not (merged.temporal_conv or merged.temporal_attention):
            raise CheckpointError(
                f"{path} is a patch without a temporal half ({','.join(parts)}); "
                "give a temporal patch or a video network."
            )
        return merged, weights, schedule
    video, schedule, weights, _ = read_network(path, read=read)
    if not (video.temporal_conv or video.temporal_attention):
        raise CheckpointError(f"{path} is an image network without motion; give a video network or a temporal patch.")
    parts = [part for part in PARTS if part != "predict_net"]
    merged = _adopt(config, video, parts, path)
    added = {k: v for k, v in weights.items() if part_of(k) not in ("spatial", "predict_net")}
    result = {**_kept(state, merged), **added}
    if merged.concat_channels > config.concat_channels:
        first, theirs = result[FIRST_CONVOLUTION], weights[FIRST_CONVOLUTION]
        extra = theirs[:, config.in_channels :].to(first)
        result[FIRST_CONVOLUTION] = torch.cat([first[:, : config.in_channels], extra], dim=1)
    return merged, result, schedule


def _adopt(config: UNetConfig, other: UNetConfig, parts: list[str], path: str | os.PathLike) -> UNetConfig:
    """The config with another's fields of these parts, where the two are of one shape."""
    for name in SHAPE:
        if getattr(other, name) != getattr(config, name):
            raise CheckpointError(
                f"{path} was made for a network with {name} = {getattr(other, name)}, this one has "
                f"{getattr(config, name)}; choose two of one kind."
            )
    # Shapes are those of any number of heads: another number would load, and compute something else. A temporal half
    # with heads of its own (AnimateDiff) would still look at features it never saw.
    follows = (
        ("temporal" in parts and other.temporal_attention)
        or ("paca" in parts and other.paca)
        or ("image_adapter" in parts and other.image_adapter != "off")
    )
    if follows and (other.num_heads, other.head_dim) != (config.num_heads, config.head_dim):
        raise CheckpointError(
            f"{path} was trained with the attention heads of another Stable Diffusion ({_heads(other)}; this network "
            f"has {_heads(config)}): choose two of the same generation, 1.x or 2.x."
        )
    fields = {name: getattr(other, name) for part in parts for name in known_part(part).fields}
    try:
        return replace(config, **fields)
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit this base: {error}") from error


def _kept(state: Mapping[str, Tensor], merged: UNetConfig) -> Weights:
    """The base's weights, but for fusion convolutions whose place another part takes (Swap-CA, at its sites)."""
    expected = VideoUNet(merged, device="meta").state_dict()
    displaced = tuple(prefix + "." for prefix in PARTS["fusion"].prefixes)
    return {k: v for k, v in state.items() if k in expected or not k.startswith(displaced)}


def _heads(config: UNetConfig) -> str:
    return f"{config.num_heads} heads" if config.num_heads else f"heads of {config.head_dim}"
