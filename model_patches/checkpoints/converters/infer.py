"""Config and noise schedule of a public network, told from shapes and buffers, with the caller's overrides on top.

Shapes do not tell how a width is split into heads, nor which noise a network was trained with: those come from the
source's own rule, from buffers in the file, or from `overrides`, and the report says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from ....errors import CheckpointError, ConfigError, nearest, shown
from ...network.config import ProjectorConfig, UNetConfig
from .report import Report

Shapes = Mapping[str, tuple[int, ...]]

# Stable Diffusion's own schedule, in the form of schedulers.ScheduleConfig.to_dict().
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "betas": "scaled_linear",
    "prediction": "eps",
    "shift_reference": None,
    "shift": None,
    "rescale": "none",
    "signal_scale": 1.0,
    "signal_scale_steps": 400,
    "spacing": "leading",
    "guidance_rescale": 0.0,
    "trained_shape": None,
}
HALF = (torch.float16, torch.bfloat16)
CONFIG_FIELDS = tuple(f.name for f in fields(UNetConfig))


def check_overrides(overrides: Mapping | None) -> dict:
    """Overrides name fields of the network's config or of the noise schedule; anything else is an error."""
    for name in overrides or ():
        if name not in CONFIG_FIELDS and name not in SCHEDULE:
            near = nearest(name, [*CONFIG_FIELDS, *SCHEDULE])
            hint = f"; did you mean {near!r}?" if near else ""
            raise CheckpointError(f"there is no field {name!r} to override{hint}.")
    return dict(overrides or {})


def configure(inferred: Mapping, overrides: Mapping) -> UNetConfig:
    """The config: what was inferred, with overrides on top. Raises CheckpointError where that cannot be built."""
    values = {**inferred, **{k: v for k, v in overrides.items() if k in CONFIG_FIELDS}}
    if overrides.get("head_dim"):
        values["num_heads"] = overrides.get("num_heads")
    elif overrides.get("num_heads"):
        values["head_dim"] = None
    try:
        return UNetConfig(**values)
    except ConfigError as error:
        raise CheckpointError(
            f"its shapes give no network: {error} Overrides can set what shapes do not tell."
        ) from error


def reschedule(schedule: Mapping, overrides: Mapping) -> dict:
    """The schedule with overrides on top."""
    return {**schedule, **{k: v for k, v in overrides.items() if k in SCHEDULE}}


def heads_from_counts(widths: list[int], counts: list[int]) -> dict:
    """Heads of each level -> the config's rule: one count at every width, or one width of head."""
    if len(set(counts)) == 1:
        return {"num_heads": counts[0], "head_dim": None}
    dims = {width // count for width, count in zip(widths, counts, strict=False)}
    if len(dims) == 1 and len(widths) == len(counts):
        return {"num_heads": None, "head_dim": dims.pop()}
    raise CheckpointError(f"attention heads {shown(counts)} at widths {shown(widths)} follow no rule that is known.")


def ldm_spatial(shapes: Shapes) -> dict:
    """Fields of the spatial half from shapes under LDM's names (`input_blocks.N...`).

    Right for the temporal networks as well: their encoder has the same indices.
    """
    width, channels = shape_of(shapes, "input_blocks.0.0.weight")[:2]
    levels: list[list[tuple[int, bool]]] = [[]]  # per level, per ResBlock: width, attention
    for n in range(1, _count(shapes, "input_blocks.")):
        block = f"input_blocks.{n}.0.in_layers.2.weight"
        if block not in shapes:
            levels.append([])
        else:
            levels[-1].append((shape_of(shapes, block)[0], f"input_blocks.{n}.1.proj_in.weight" in shapes))
    return {
        "in_channels": channels,
        "out_channels": shape_of(shapes, "out.2.weight")[0],
        "context_dim": shape_of(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        "linear_projection": len(shape_of(shapes, "middle_block.1.proj_in.weight")) == 2,
        **levels_fields(width, levels),
    }


def levels_fields(width: int, levels: list[list[tuple[int, bool]]]) -> dict:
    """Width of the network and (width, attention) of each ResBlock of each level -> config fields."""
    if width < 1 or any(len(set(level)) != 1 for level in levels) or len({len(level) for level in levels}) != 1:
        raise CheckpointError("its encoder is irregular: every level must have the same number of equal blocks.")
    if any(level[0][0] % width for level in levels):
        raise CheckpointError(f"the widths of its levels are no multiples of {width}.")
    return {
        "model_channels": width,
        "channel_mult": tuple(level[0][0] // width for level in levels),
        "num_res_blocks": len(levels[0]),
        "attention_levels": tuple(level[0][1] for level in levels),
    }


def diffusers_spatial(shapes: Shapes) -> dict:
    """Fields of the spatial half from shapes under diffusers' names (`down_blocks.L.resnets.N...`)."""
    width, channels = shape_of(shapes, "conv_in.weight")[:2]
    levels: list[list[tuple[int, bool]]] = []
    while (down := f"down_blocks.{len(levels)}") + ".resnets.0.conv1.weight" in shapes:
        level: list[tuple[int, bool]] = []
        while (block := f"{down}.resnets.{len(level)}.conv1.weight") in shapes:
            level.append((shape_of(shapes, block)[0], f"{down}.attentions.{len(level)}.proj_in.weight" in shapes))
        levels.append(level)
    if not levels:
        raise CheckpointError("it has no down_blocks.0.resnets; the file is not complete.")
    return {
        "in_channels": channels,
        "out_channels": shape_of(shapes, "conv_out.weight")[0],
        "context_dim": shape_of(shapes, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1],
        "linear_projection": len(shape_of(shapes, "mid_block.attentions.0.proj_in.weight")) == 2,
        **levels_fields(width, levels),
    }


def shape_of(shapes: Shapes, key: str, least: int = 2) -> tuple[int, ...]:
    """Of a layer's weight: so many axes at least, and none of them empty."""
    if key not in shapes:
        raise CheckpointError(f"it lacks {key}; the file is not complete.")
    shape = tuple(shapes[key])
    if len(shape) < least or 0 in shape:
        raise CheckpointError(f"its {key} has the shape {shown(list(shape))}, which no such layer has.")
    return shape


def _count(shapes: Shapes, prefix: str) -> int:
    """Layers of a numbered list; there are no more of them than weights."""
    numbers = {k[len(prefix) :].split(".")[0] for k in shapes if k.startswith(prefix)}
    count = 1 + max((int(n) for n in numbers if re.fullmatch(r"[0-9]{1,9}", n)), default=-1)
    if count > len(shapes):
        raise CheckpointError(f"it names {prefix}{count - 1}, and has {len(shapes)} weights; the file is damaged.")
    return count


def projector_fields(shapes: Shapes, overrides: Mapping | None) -> dict:
    """Config of a resampler from its shapes. Heads of 64 and 16 queries a frame are the sources' rule."""
    given = dict(overrides or {})
    rows, dim = shape_of(shapes, "latents", 3)[1:3]
    inner = shape_of(shapes, "layers.0.0.to_q.weight")[0]
    head_dim = given.get("head_dim") or (inner // given["heads"] if "heads" in given else 64)
    queries = given.get("queries", 16)
    known = {
        "kind": "resampler",
        "embedding_dim": shape_of(shapes, "proj_in.weight")[1],
        "output_dim": shape_of(shapes, "proj_out.weight")[0],
        "queries": queries,
        "dim": dim,
        "depth": _count(shapes, "layers."),
        "heads": inner // head_dim,
        "head_dim": head_dim,
        "ff_mult": shape_of(shapes, "layers.0.1.1.weight")[0] // dim,
        "frames": rows // queries if rows > queries else None,
    }
    unknown = set(given) - {f.name for f in fields(ProjectorConfig)}
    if unknown:
        raise CheckpointError(f"there is no field {sorted(unknown)[0]!r} of image_projector to override.")
    return {**known, **given}


# -- the noise schedule ---------------------------------------------------------------------------------------


def betas_from_buffers(buffers: Mapping[str, Tensor], report: Report) -> dict:
    """num_train_timesteps, beta_start, beta_end and betas of a schedule; {} if the file names none."""
    betas = buffers.get("betas")
    if betas is None or betas.ndim != 1 or len(betas) < 2:
        return {}
    found = {"num_train_timesteps": len(betas)}
    if float(betas[-1]) >= 1:  # rescaled to zero terminal SNR: the original ends are not in it
        return found
    ends = {"beta_start": _rounded(betas[0]), "beta_end": _rounded(betas[-1])}
    for name, power in (("scaled_linear", 0.5), ("linear", 1)):
        curve = betas.double() ** power
        line = torch.linspace(float(curve[0]), float(curve[-1]), len(curve), dtype=torch.float64)
        # The two forms differ by a tenth of the last value.
        if torch.allclose(curve, line, rtol=0, atol=float(curve[-1]) * (1e-2 if betas.dtype in HALF else 1e-3)):
            return {**found, **ends, "betas": name}
    report.notes.append(
        "the betas in the file are neither scaled linear nor linear; the schedule is recorded as Stable Diffusion's, "
        "override beta_start, beta_end and betas if that is wrong"
    )
    return found


def signal_scale_from_buffers(buffers: Mapping[str, Tensor]) -> dict | None:
    """The last value and the turning step of `scale_arr` (VideoCrafter, DynamiCrafter); None without one."""
    scale = buffers.get("scale_arr")
    if scale is None or scale.numel() == 0:
        return None
    if scale.dtype in HALF:  # rounding hides where the slope ends; every release turns at the same step
        return {"signal_scale": _rounded(scale[-1]), "signal_scale_steps": SCHEDULE["signal_scale_steps"]}
    base = float(scale[-1])
    above = int((scale.double() > base + 1e-4 * (1 - base)).sum())
    return {"signal_scale": _rounded(scale[-1]), "signal_scale_steps": above + 1 if above else 400}


def _rounded(value: Tensor) -> float:
    """A number as its author wrote it, without the rounding of its type."""
    return float(f"{float(value):.{2 if value.dtype in HALF else 6}g}")
