"""What an image upscaler is: our RCAN, or a network that spandrel, ComfyUI's library for them, knows."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError, blameless, reason
from ...libraries import library
from ..checkpoints.files import read_header, read_weights
from ..dtypes import NAMES
from .rcan import RCAN, rcan_config, rcan_of


@dataclass(frozen=True)
class Upscaler:
    """An image network (n, 3, h, w) in [0, 1] -> (n, 3, scale*h, scale*w), and what may be done with it."""

    network: nn.Module
    scale: int
    name: str  # for sentences
    half: bool  # whether it computes right in float16
    bfloat16: bool
    # How to run it where that is more than calling the network; it then takes one image at a time, as spandrel's do.
    call: Callable[[Tensor], Tensor] | None = None


# -- what the network is --------------------------------------------------------------------------------------------


def upscaler_of(descriptor: Any, name: str = "the model") -> Upscaler:
    """From spandrel's ImageModelDescriptor, which is what ComfyUI's "Load Upscale Model" gives.

    An RCAN becomes ours, of the same weights: spandrel's overwrites its input where it shifts means, and knows no
    strips. Raises CheckpointError for what enlarges no images.
    """
    needed = ("model", "scale", "input_channels", "output_channels", "supports_half", "supports_bfloat16", "purpose")
    if not all(hasattr(descriptor, field) for field in needed):
        found = type(descriptor).__name__
        raise CheckpointError(f"{name} is no upscaler ({found}); give a model that enlarges images.")
    scale, channels = descriptor.scale, (descriptor.input_channels, descriptor.output_channels)
    kind = getattr(getattr(descriptor, "architecture", None), "id", "model")
    if descriptor.purpose == "Inpainting":
        raise CheckpointError(f"{name} fills in holes ({kind}); choose a model that enlarges images.")
    if descriptor.purpose == "FaceSR":
        raise CheckpointError(f"{name} restores cut-out faces ({kind}); choose a model that enlarges whole images.")
    if scale < 2:
        raise CheckpointError(f"{name} restores without enlarging ({kind}, x{scale}); choose a model of x2 or more.")
    if channels != (3, 3):
        raise CheckpointError(
            f"{name} takes {channels[0]} and makes {channels[1]} channels ({kind}); choose a model for RGB images."
        )
    network = rcan_of(descriptor.model.state_dict(), name)
    if network is not None:
        return _ours(network, name)
    half, bfloat16 = descriptor.supports_half, descriptor.supports_bfloat16
    return Upscaler(descriptor.model, scale, name, half, bfloat16, descriptor)


def load_upscaler(path: str | os.PathLike) -> Upscaler:
    """From a weight file; what is no RCAN needs spandrel. Raises CheckpointError with one sentence."""
    path = Path(path)
    header = read_header(path)
    if header.kind not in (None, "upscaler"):
        kind = {"unet": "a video network", "patch": "a patch for video networks"}.get(header.kind, header.kind)
        raise CheckpointError(f"{path.name} is no upscaler: it is {kind} of DreamFactory; give an upscaler's file.")
    network = rcan_of(read_weights(path), path.name) if rcan_config(header.shapes) is not None else None
    if network is not None:
        return _ours(network, path.name)
    return upscaler_of(_spandrel(path), path.name)


def _ours(network: RCAN, name: str) -> Upscaler:
    return Upscaler(network, network.scale, name, half=False, bfloat16=True)  # as spandrel has it for RCAN


@contextmanager
def torchvision_or_none() -> Iterator[None]:
    """Lets spandrel be imported without torchvision, or beside one that was made for another torch.

    It is asked for by two of spandrel's networks, for inpainting and for faces; pip would replace torch to have it.
    """
    try:
        importlib.import_module("torchvision")
    except Exception:  # a broken one raises RuntimeError and more
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half of a broken one
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in names:
            sys.modules[name] = module = ModuleType(name)
            module.__getattr__ = _missing
        try:
            yield
        finally:
            for name in names:
                sys.modules.pop(name, None)
    else:
        yield


def _missing(name: str) -> type:
    """Stands for whatever torchvision would give."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__getattr__": lambda self, name: _missing(name)})


def _spandrel(path: Path) -> Any:
    """The descriptor of a file of any architecture."""
    with torchvision_or_none():
        spandrel = library("spandrel", f"{path.name} is no RCAN, and an upscaler of another kind")
    weights = read_weights(path)
    try:
        return spandrel.ModelLoader().load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise CheckpointError(
            f"{path.name} is no upscaler: its {len(weights)} weights are of no image network that spandrel knows."
        ) from error
    except Exception as error:  # its loaders read weights by name and shape, and raise whatever comes of it
        if blameless(error):
            raise
        raise CheckpointError(
            f"{path.name} looks like an upscaler, but spandrel cannot build one of its weights ({reason(error)}): they "
            "are not whole, or of a variant that it does not know."
        ) from error


# -- sizes and precision ----------------------------------------------------------------------------------------------


def check_dtype(upscaler: Upscaler, dtype: torch.dtype) -> None:
    """Raises ConfigError where the network computes wrongly in numbers of this kind."""
    allowed = {torch.float32: True, torch.float16: upscaler.half, torch.bfloat16: upscaler.bfloat16}
    if not allowed.get(dtype, False):
        others = " or ".join(NAMES[d] for d, right in allowed.items() if right)
        raise ConfigError(f"{upscaler.name} does not compute in {NAMES.get(dtype, dtype)}; choose {others}.")
