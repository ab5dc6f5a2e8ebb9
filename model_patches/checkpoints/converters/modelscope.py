"""ModelScope text-to-video: the original names (VGen's UNetSD_T2VBase) and diffusers' UNet3DConditionModel.

The original names are also those of VideoCrafter and DynamiCrafter (lvdm.py), which grew out of it. Temporal
layers sit inside Stable Diffusion's index scheme there and shift what follows:

    <ResBlock>.temopral_conv   -> temporal_convs.<position>        (the typo is in every source)
    *_blocks.N.2               -> temporal_attentions.<position>   the upsampling layer behind it is .3, not .2
    middle_block.2, .3         -> temporal_attentions.middle_1, middle_block.2
    input_blocks.N.op          -> input_blocks.N.0.op              (LVDM already has the inner index)
    input_blocks.0.1           -> init_temporal                    (LVDM: init_attn.0)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ....errors import CheckpointError
from ...network.config import UNetConfig
from ...network.layout import Position, layout
from ..files import Header
from .diffusers_names import diffusers_names
from .infer import SCHEDULE, check_overrides, configure, diffusers_spatial, ldm_spatial, reschedule, shape_of
from .keys import contents, match_shapes, note_ignored, rename
from .report import Report

# ModelScope was trained with dropout in its temporal convolutions; sampling never sees it.
TEMPORAL = {"temporal_conv": True, "temporal_attention": True}


def convert(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """Original ModelScope weights -> (config, weights under our names, noise schedule, report).

    state: the file's weights by name. overrides: fields of the config or of the schedule. Heads are 64 wide and
    the first temporal transformer has 8 of them, as in the released network; shapes do not tell.
    Raises CheckpointError with a sentence.
    """
    overrides, report = check_overrides(overrides), Report("modelscope")
    found = contents(state)
    shapes = {k: tuple(state[name].shape) for k, name in found.unet.items()}
    config = configure({**ldm_spatial(shapes), **temporal_fields(shapes, "input_blocks.0.1", overrides)}, overrides)
    renamed, report.unexpected = rename({k: state[name] for k, name in found.unet.items()}, temporal_names(config))
    weights = match_shapes(config, renamed, report)
    note_ignored(found, report)
    return config, weights, reschedule(SCHEDULE, overrides), report


def convert_diffusers(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """diffusers' UNet3DConditionModel, as `convert`.

    Its `attention_head_dim` is the width of a head (in its UNet2D the same name is their number) and decides the
    inner width of transformer_in, 8 heads, so it is read from there.
    """
    overrides, report = check_overrides(overrides), Report("modelscope-diffusers")
    found = contents(state)
    shapes = {k: tuple(state[name].shape) for k, name in found.unet.items()}
    config = configure({**diffusers_spatial(shapes), **temporal_fields(shapes, "transformer_in", overrides)}, overrides)
    renamed, report.unexpected = rename({k: state[name] for k, name in found.unet.items()}, diffusers_names(config))
    return config, match_shapes(config, renamed, report), reschedule(SCHEDULE, overrides), report


def temporal_fields(shapes: Mapping[str, tuple[int, ...]], init: str, overrides: Mapping) -> dict:
    """Fields of the temporal half. init: the source's name of the first temporal transformer."""
    if f"{init}.proj_in.weight" not in shapes:
        return {**TEMPORAL, "init_temporal": False}
    inner = shape_of(shapes, f"{init}.proj_in.weight")
    heads = overrides.get("init_temporal_heads", 8)
    if type(heads) is not int or heads < 1 or inner[0] % heads:
        raise CheckpointError(f"{init} is {inner[0]} wide, which does not divide into {heads} init_temporal_heads.")
    width = inner[0] // heads
    # One width of head throughout, in every source.
    return {
        **TEMPORAL,
        "init_temporal": True,
        "init_temporal_heads": heads,
        "init_temporal_head_dim": width,
        "head_dim": width,
    }


def temporal_names(config: UNetConfig) -> dict[str, str]:
    """{module in the source: our module} for ModelScope's original names and LVDM's."""
    plan = layout(config)
    table = {name: name for name in ("time_embed", "out", "input_blocks.0.0")}
    table |= {"input_blocks.0.1": "init_temporal", "init_attn.0": "init_temporal"}
    table |= {"fps_embedding": "frame_rate_embedding", "framestride_embed": "frame_rate_embedding"}

    def residual(source: str, ours: str, position: Position) -> None:
        table[source] = ours
        table[f"{source}.temopral_conv"] = f"temporal_convs.{position.name}"

    def transformer(source: str, ours: str, position: Position) -> None:
        table[source] = ours
        cross = f"{source}.transformer_blocks.0.attn2"
        adapter = f"image_adapters.{position.name}"
        table[f"{cross}.to_k_ip"] = f"{adapter}.to_k_ip"
        table[f"{cross}.to_v_ip"] = f"{adapter}.to_v_ip"
        table[f"{cross}.alpha"] = f"{adapter}.scale.alpha"

    for blocks, positions in (("input_blocks", plan.inputs), ("output_blocks", plan.outputs)):
        for position in positions:
            block = f"{blocks}.{position.index}"
            if position.downsample:
                table[f"{block}.op"] = table[f"{block}.0.op"] = f"{block}.0.op"
                continue
            residual(f"{block}.0", f"{block}.0", position)
            source = ours = 1
            if position.spatial_attention:
                transformer(f"{block}.{source}", f"{block}.{ours}", position)
                source, ours = source + 1, ours + 1
            if position.temporal_attention:
                table[f"{block}.{source}"] = f"temporal_attentions.{position.name}"
                source += 1
            if position.upsample:
                table[f"{block}.{source}.conv"] = f"{block}.{ours}.conv"

    first, centre, last = plan.middle
    residual("middle_block.0", "middle_block.0", first)
    transformer("middle_block.1", "middle_block.1", centre)
    table["middle_block.2"] = f"temporal_attentions.{centre.name}"
    residual("middle_block.3", "middle_block.2", last)
    return table
