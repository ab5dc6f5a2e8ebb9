"""`load_unet`: a network from any file this pack understands; `read_patch`: an addition to one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..network.attention import Attention
from ..network.config import UNetConfig
from ..network.unet import VideoUNet
from .converters import Report, convert_addition, convert_file_in_memory, is_addition
from .files import PARTS_FIELD, Header, Reader, read_header, read_weights
from .save import build


def load_unet(
    path: str | os.PathLike,
    *,
    operations: Any = nn,
    attention: Attention | str = "sdpa",
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    overrides: Mapping | None = None,
) -> VideoUNet:
    """Read a network from a safetensors file: ours, or a public one, which is converted in memory.

    dtype: of the weights in memory; None keeps the file's. overrides: config or schedule fields that a public file
    does not tell, such as `first_frame_concat="ends"` for DynamiCrafter's interpolation.

    Returns the network in evaluation mode: its config in `.config`, the noise schedule it was trained with, as plain
    data, in `.schedule` (None if the file names none), what a conversion did in `.report` (None for our files).
    Raises CheckpointError with one sentence.
    """
    config, schedule, state, report = read_network(path, overrides)
    state = {k: v.to(dtype=dtype) if dtype is not None and v.is_floating_point() else v for k, v in state.items()}
    unet = build(config, state, str(path), operations=operations, attention=attention, dtype=dtype).to(device)
    unet.schedule, unet.report = schedule, report
    return unet.eval()


def read_network(
    path: str | os.PathLike, overrides: Mapping | None = None, read: Reader = read_weights
) -> tuple[UNetConfig, dict | None, dict[str, Tensor], Report | None]:
    """Config, noise schedule, weights and conversion report of any file that `load_unet` reads, not yet a network.

    read: how a file's weights are read; no weight is copied, but for those that a conversion reshapes.
    """
    header = read_header(path)
    if header.kind == "patch":
        parts = header.metadata.get(PARTS_FIELD, "")
        raise CheckpointError(
            f"{path} is a patch ({parts}), no whole network; load its base, then put the patch on it."
        )
    if header.kind != "unet":
        return convert_file_in_memory(path, header, overrides=overrides, read=read)
    if overrides:
        raise CheckpointError(f"{path} says itself what it is; overrides are for files that do not.")
    return header.config, header.schedule, read(path), None


def is_patch(header: Header) -> bool:
    """Whether `read_patch` reads a file: a patch of ours, or AnimateDiff's or IP-Adapter's."""
    return header.kind == "patch" or (header.kind is None and is_addition(header))


def read_patch(
    path: str | os.PathLike, read: Reader = read_weights
) -> tuple[UNetConfig, dict | None, dict[str, Tensor], list[str]]:
    """Config of the network it was made for, noise schedule (None: the base's), weights and parts of an addition.

    A public one (AnimateDiff, IP-Adapter) is converted in memory.
    """
    header = read_header(path)
    if header.kind == "patch":
        parts = header.metadata.get(PARTS_FIELD, "").split(",")
        return header.config, header.schedule, read(path), parts
    if not is_patch(header):
        raise CheckpointError(f"{path} is no patch file; save one with save_patch, or load a network with load_unet.")
    config, schedule, weights, part, _ = convert_addition(path, header, read=read)
    return config, schedule, weights, [part]
