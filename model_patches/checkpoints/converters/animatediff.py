"""AnimateDiff motion modules -> the temporal half of a network of Stable Diffusion 1.5, as a patch.

A module follows each ResBlock or its transformer, at every level and (v2) in the middle. It is our temporal transformer
with sinusoidal positions: two self-attentions over frames, positions added to the queries, keys and values of both.

    {down,up}_blocks.L.motion_modules.J, mid_block.motion_modules.0      -> temporal_attentions.<position>
    temporal_transformer.transformer_blocks.0.attention_blocks.{0,1}     -> transformer_blocks.0.attn{1,2}
                                             .norms.{0,1}, .ff_norm      -> .norm{1,2}, .norm3
    (diffusers' MotionAdapter has our names inside a module)

v1 and v3 have no middle, tables of 24 and 32 positions; AnimateLCM, AnimateDiff-Lightning and others are the same
form. AnimateDiff's own code takes the group norm of a module frame by frame, diffusers over the whole clip: names say
which code the weights are for, and `temporal_norm` overrides it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from ....errors import CheckpointError
from ...network.attention import sine_positions
from ...network.config import UNetConfig
from ...network.layout import layout
from ..files import Header
from .infer import HALF, SCHEDULE, Shapes, check_overrides, configure, levels_fields, reschedule
from .keys import match_shapes, rename
from .report import Report

# Whatever wraps the names: `module.`, `state_dict.`, `unet.`.
KEY = re.compile(r"(?:^|\.)((?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+\..+)$")
ORIGINAL = ".temporal_transformer."
BETAS = {**SCHEDULE, "betas": "linear"}
SD15 = {"context_dim": 768, "num_heads": 8, "head_dim": None, "linear_projection": False}
SDXL_WIDTHS = [320, 640, 1280]
POSITIONS_V1 = 24
LATENT_CHANNELS = 4

# Weights beside the modules without which those would compute something else: {their name: whose they are}.
VARIANTS = {
    "img_encoder": "AnimateLCM's image-to-video, whose image encoder has no place in this network",
    "fps_embedding": "FancyVideo, whose frame-rate and motion embeddings have no place in this network",
    "motion_embedding": "FancyVideo, whose frame-rate and motion embeddings have no place in this network",
}


def convert(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """Motion modules -> (config of the base with them, their weights under our names, noise schedule, report).

    state: the file's weights by name; those of an image network beside them are left aside. overrides: fields of the
    config or of the schedule. Raises CheckpointError with a sentence.
    """
    overrides, report = check_overrides(overrides), Report("animatediff")
    modules = {m[1]: weight for k, weight in state.items() if (m := KEY.search(k))}
    _left_aside(state, report)
    tables = {k: modules.pop(k) for k in list(modules) if k.endswith(".pe")}
    config = configure(_fields({k: tuple(v.shape) for k, v in modules.items()}), overrides)
    _check_positions(tables, report)
    renamed, report.unexpected = rename(modules, motion_names(config))
    weights = match_shapes(config, renamed, report, "temporal")
    if config.temporal_norm == "clip" and "temporal_norm" not in overrides:
        report.notes.append(
            "group norms run over the whole clip, as diffusers computes these names; AnimateDiff's own code takes them "
            "frame by frame, override temporal_norm with 'frame' for that"
        )
    longest = max((table.shape[-2] for table in tables.values()), default=None)
    if longest == POSITIONS_V1 and not config.temporal_attention_middle:
        report.notes.append(
            "this is AnimateDiff v1, whose own code takes Stable Diffusion's group norms over the whole clip; here "
            "and in diffusers they are taken frame by frame, as v2 and v3 were trained"
        )
    return config, weights, reschedule(BETAS, overrides), report


def motion_names(config: UNetConfig, original: bool | None = None) -> dict[str, str]:
    """{module in the source: our module}. original: AnimateDiff's own names, or diffusers' (False); None: both."""
    plan, last = layout(config), len(config.channel_mult) - 1
    table: dict[str, str] = {}

    def module(source: str, name: str) -> None:
        ours = f"temporal_attentions.{name}"
        if original is not True:
            table[source] = ours
        if original is not False:
            inner = f"{source}{ORIGINAL}".removesuffix(".")
            block, own = f"{inner}.transformer_blocks.0", f"{ours}.transformer_blocks.0"
            table[inner] = ours
            table.update({f"{block}.attention_blocks.{i}": f"{own}.attn{i + 1}" for i in range(2)})
            table.update({f"{block}.norms.{i}": f"{own}.norm{i + 1}" for i in range(2)})
            table[f"{block}.ff_norm"] = f"{own}.norm3"

    for side, positions in (("down", plan.inputs), ("up", plan.outputs)):
        seen: Counter[int] = Counter()
        for position in positions:
            level = position.level if side == "down" else last - position.level
            if not position.downsample:
                module(f"{side}_blocks.{level}.motion_modules.{seen[level]}", position.name)
                seen[level] += 1
    module("mid_block.motion_modules.0", plan.middle[1].name)
    return table


def _fields(shapes: Shapes) -> dict:
    """Config of Stable Diffusion 1.5 with the modules. Which levels attend in space is 1.5's rule: all but the last."""
    levels: list[list[int]] = []
    norms = {k.replace(ORIGINAL, "."): shape for k, shape in shapes.items() if k.endswith(".norm.weight")}
    while widths := [
        next(iter(shape), 0) for k, shape in norms.items() if k.startswith(f"down_blocks.{len(levels)}.motion_modules.")
    ]:
        levels.append(widths)
    if not levels:
        raise CheckpointError("it has no down_blocks.0.motion_modules; the file is not complete.")
    if [level[0] for level in levels] == SDXL_WIDTHS:
        raise CheckpointError("these are motion modules for SDXL; give AnimateDiff for Stable Diffusion 1.5.")
    count = len(levels)
    return {
        **levels_fields(levels[0][0], [[(width, i < count - 1) for width in level] for i, level in enumerate(levels)]),
        **SD15,
        "temporal_attention": True,
        "temporal_attention_levels": (True,) * count,
        "temporal_attention_middle": any(k.startswith("mid_block.") for k in shapes),
        "temporal_num_heads": 8,
        "temporal_positions": "sinusoidal",
        "temporal_norm": "frame" if any(ORIGINAL in k for k in shapes) else "clip",
    }


def _check_positions(tables: Mapping[str, Tensor], report: Report) -> None:
    """The network computes the table, for any number of frames; a file with another one would be another network."""
    for key, table in tables.items():
        flat = table.ndim >= 2 and 0 < table.numel() == table.shape[-2] * table.shape[-1]
        if not flat or not table.is_floating_point():
            raise CheckpointError(f"{key} has the shape {list(table.shape)}, which no table of positions has.")
        table = table.reshape(table.shape[-2:])
        own = sine_positions(torch.arange(len(table)), table.shape[1])
        # Half precision keeps 11 bits of numbers up to 1, bfloat16 8.
        tolerance = torch.finfo(table.dtype).eps if table.dtype in HALF else 1e-5
        if own.shape != table.shape or not torch.allclose(own, table.float(), rtol=0, atol=tolerance):
            raise CheckpointError(
                f"{key} is no sinusoidal table; its positions were learned, and this network computes them. "
                "Give an AnimateDiff file with the usual positions."
            )
    if tables:
        frames = max(table.shape[-2] for table in tables.values())
        report.notes.append(f"trained on clips of up to {frames} frames, the length of its table of positions")


def _left_aside(state: Mapping[str, Tensor], report: Report) -> None:
    """Refuse weights without which the modules would not compute what they should; say how many others there are."""
    others = [k for k in state if not KEY.search(k)]
    for name, what in VARIANTS.items():
        if any(f".{name}." in f".{k}" for k in others):
            raise CheckpointError(f"this is {what}; give plain AnimateDiff motion modules.")
    first = next((state[k] for k in others if f".{k}".endswith(".conv_in.weight")), None)
    if first is not None and first.ndim > 1 and first.shape[1] != LATENT_CHANNELS:
        raise CheckpointError(
            f"this is PIA or another variant whose first convolution takes {first.shape[1]} channels; give plain "
            "AnimateDiff motion modules."
        )
    if others:
        report.notes.append(f"{len(others)} weights beside the motion modules were left aside")
