"""Names of weights: what a checkpoint holds, renaming by module, and fitting the result to our network.

A table maps modules (`"middle_block.3"` -> `"middle_block.2"`), never single weights; the longest name that a key
starts with decides. Every converter makes its table from `layout(config)`, so any depth and width converts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from ....errors import CheckpointError, some
from ...network.config import UNetConfig
from ...network.parts import part_of
from ...network.unet import VideoUNet
from .report import Report

ANCHORS = ("input_blocks.0.0.weight", "conv_in.weight")  # LDM's and diffusers' first convolution
PROJECTOR = "image_proj_model."
# Beside a UNet without a prefix of its own.
OUTSIDE = ("first_stage_model", "cond_stage_model", "embedder", "model_ema", "image_proj_model", "vae", "text_encoder")


@dataclass(frozen=True)
class Contents:
    """Names in the file by what they belong to: {name inside the part: name in the file}."""

    unet: dict[str, str]
    projector: dict[str, str]
    buffers: dict[str, str]
    ignored: dict[str, int]  # first component of the name -> number of weights


def contents(keys: Iterable[str]) -> Contents:
    """Sort a checkpoint's keys, whatever wraps them (`state_dict.`, `_forward_module.`, `model.diffusion_model.`)."""
    keys = list(keys)
    prefixes = {k.removesuffix(a) for k in keys for a in ANCHORS if k == a or k.endswith("." + a)}
    # A whole checkpoint may hold a VAE with a conv_in of its own.
    prefix = min(prefixes, key=lambda p: ("diffusion_model" not in p, len(p)), default="")
    root = prefix.removesuffix("model.diffusion_model.")
    found = Contents({}, {}, {}, {})
    ignored: Counter[str] = Counter()
    for key in keys:
        inside = key.removeprefix(root)
        if PROJECTOR in key:
            found.projector[key.split(PROJECTOR, 1)[1]] = key
        elif "." not in inside:
            found.buffers[inside] = key
        elif key.startswith(prefix) and (prefix or inside.split(".")[0] not in OUTSIDE):
            found.unet[key.removeprefix(prefix)] = key
        else:
            ignored[inside.split(".")[0]] += 1
    found.ignored.update(ignored)
    return found


Value = TypeVar("Value")


def rename(keys: Mapping[str, Value], table: Mapping[str, str]) -> tuple[dict[str, Value], list[str]]:
    """{our key: value} for {source key: value}, and the source keys no module of the table holds."""
    renamed, unexpected = {}, []
    for key, value in keys.items():
        parts = key.split(".")
        for n in range(len(parts), 0, -1):
            target = table.get(".".join(parts[:n]))
            if target is not None:
                renamed[".".join([target, *parts[n:]])] = value
                break
        else:
            unexpected.append(key)
    return renamed, unexpected


def match_shapes(
    config: UNetConfig, state: Mapping[str, Tensor], report: Report, part: str | None = None
) -> dict[str, Tensor]:
    """The weights in our shapes, strictly; axes of size 1 come and go (Conv1d -> Linear, Conv3d -> Conv2d).

    part: the only part of the network that the source has (`parts.PARTS`); None for all of it.
    Raises CheckpointError with a sentence if a weight is missing, left over or of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in VideoUNet(config, device="meta").state_dict().items()}
    kind = f"a {report.source} network" if part is None else report.source
    if part is not None:
        expected = {k: shape for k, shape in expected.items() if part_of(k) == part}
    report.missing = [k for k in expected if k not in state]
    report.unexpected += [k for k in state if k not in expected]
    for keys, what in ((report.missing, "lacks"), (report.unexpected, "has unexpected")):
        if keys:
            raise CheckpointError(f"it {what} {len(keys)} weights of {kind}: {some(keys)}.")
    fitted = {}
    for key, shape in expected.items():
        weight = state[key]
        if tuple(weight.shape) != shape:
            if _solid(weight.shape) != _solid(shape):
                raise CheckpointError(f"{key} is {tuple(weight.shape)}, where {kind} has {shape}.")
            weight = weight.reshape(shape)
            report.reshaped.append(key)
        fitted[key] = weight
    report.loaded = list(fitted)
    return fitted


def _solid(shape: Iterable[int]) -> list[int]:
    return [n for n in shape if n != 1]


def note_ignored(found: Contents, report: Report) -> None:
    """Say how much of a whole checkpoint was left aside."""
    for name, count in found.ignored.items():
        report.notes.append(f"{count} weights of {name} are no part of the network and were left aside")
