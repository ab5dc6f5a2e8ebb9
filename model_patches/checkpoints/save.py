"""Networks on disk: safetensors only, one file = one architecture, and the file says which.

The header holds the whole network config and the noise schedule the weights were trained with, as JSON, and the
`modelspec.*` fields that model managers read. Building is strict and speaks in sentences; writing is atomic.
`load.py` reads; `files.py` knows safetensors files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...errors import CheckpointError, some
from ..network.config import UNetConfig
from ..network.parts import known_part
from ..network.unet import VideoUNet
from .files import CONFIG, FORMAT, PARTS_FIELD, SCHEDULE, write


def build(config: UNetConfig, state: Mapping[str, Tensor], name: str = "the file", **kwargs) -> VideoUNet:
    """A network of this config with these weights, strictly: a sentence names what is missing, extra or misshapen."""
    check_network(config, state, name)
    unet = VideoUNet(config, **{**kwargs, "device": "meta"})
    unet.load_state_dict(state, assign=True)
    return unet


def check_network(config: UNetConfig, state: Mapping[str, Tensor], name: str = "the file") -> None:
    """Refuse weights that are not exactly those of a network of this config, as `check_weights`.

    Asked of torch's own modules: a host's may have no weights before they are loaded, and take any shape then.
    """
    check_weights(VideoUNet(config, device="meta").state_dict(), state, name)


def check_weights(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str = "the file") -> None:
    """Refuse weights that are not exactly those of a network: one sentence for missing, extra or misshapen ones."""
    check_shapes(shapes_of(expected), shapes_of(state), name)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(weight.shape) for key, weight in state.items()}


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], name: str = "the file"
) -> None:
    """`check_weights`, for a file of which only the header was read."""
    missing = [k for k in expected if k not in found]
    unexpected = [k for k in found if k not in expected]
    misshapen = [k for k in expected if k in found and expected[k] != found[k]]
    for keys, what in ((missing, "lacks"), (unexpected, "has unexpected")):
        if keys:
            raise CheckpointError(f"{name} {what} {len(keys)} weights of {len(expected)}: {some(keys)}.")
    if misshapen:
        key = misshapen[0]
        raise CheckpointError(
            f"{name} has {len(misshapen)} weights of another shape: {key} is {found[key]}, its config asks for "
            f"{expected[key]}."
        )


def save_unet(
    unet: VideoUNet,
    path: str | os.PathLike,
    *,
    schedule: Mapping | None = None,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, its config and its noise schedule; whole or not at all.

    schedule: plain data of schedulers.ScheduleConfig; None keeps what the network was loaded with.
    dtype: of the weights on disk; None as in memory. metadata: further header fields (strings).
    """
    schedule = schedule if schedule is not None else unet.schedule
    save_network(unet.config, unet.state_dict(), path, schedule=schedule, dtype=dtype, metadata=metadata)


def save_network(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    path: str | os.PathLike,
    *,
    schedule: Mapping | None = None,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights that need not be in a network; the file is that of `save_unet`."""
    write(path, state, _metadata("unet/1", config, schedule, metadata), dtype)


def save_patch(
    unet: VideoUNet, path: str | os.PathLike, parts: Iterable[str], *, dtype: torch.dtype | None = None
) -> None:
    """Write only some parts (`parts.PARTS`: paca, image_adapter, swap_attention, temporal, ...) as a small file."""
    save_parts(unet.config, unet.state_dict(), path, parts, schedule=unet.schedule, dtype=dtype)


def save_parts(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    path: str | os.PathLike,
    parts: Iterable[str],
    *,
    schedule: Mapping | None = None,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """The file of `save_patch` from weights that need not be in a network. config: of the whole network."""
    parts = list(parts)
    state = {k: v for k, v in state.items() if k.startswith(_prefixes(parts))}
    if not state:
        raise CheckpointError(f"this network has no weights of {', '.join(parts)}; nothing to save.")
    extra = {PARTS_FIELD: ",".join(parts), **(metadata or {})}
    write(path, state, _metadata("patch/1", config, schedule, extra), dtype)


def check_parts(config: UNetConfig, found: Mapping[str, tuple[int, ...]], parts: Iterable[str], name: str) -> None:
    """Refuse a patch whose weights are not exactly those of its parts, in a network of this config."""
    whole = shapes_of(VideoUNet(config, device="meta").state_dict())
    check_shapes({k: shape for k, shape in whole.items() if k.startswith(_prefixes(parts))}, found, name)


def _prefixes(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + "." for part in parts for prefix in known_part(part).prefixes)


def _metadata(kind: str, config: UNetConfig, schedule: Mapping | None, extra: Mapping[str, str] | None) -> dict:
    prediction = {"eps": "epsilon", "v": "v", "x0": "sample"}.get((schedule or {}).get("prediction", ""), "")
    fields = {
        FORMAT: kind,
        CONFIG: json.dumps(config.to_dict()),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "dreamfactory-video-unet",
        "modelspec.implementation": "comfyui-dreamfactory",
        "modelspec.title": "DreamFactory video UNet",
        **(extra or {}),
    }
    if prediction:
        fields["modelspec.prediction_type"] = prediction
    if schedule is not None:
        fields[SCHEDULE] = json.dumps(dict(schedule))
    return fields
