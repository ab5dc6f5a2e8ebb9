"""Stable Diffusion 1.5 and 2.1: single files in LDM's names, and diffusers' UNet2DConditionModel.

The spatial half keeps LDM's names here, so a single file's UNet is taken as it stands. What shapes do not tell:
1.x has 8 heads at every width, 2.x heads of 64; diffusers' config.json says it outright.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ....errors import CheckpointError
from ...network.config import UNetConfig
from ..files import Header
from .diffusers_names import diffusers_names
from .infer import SCHEDULE, betas_from_buffers, check_overrides, configure, diffusers_spatial, ldm_spatial, reschedule
from .keys import contents, match_shapes, note_ignored, rename
from .report import Report

LDM_MODULES = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")
SD1_CONTEXT = 768  # CLIP ViT-L
V_PREDICTION = {"prediction": "v", "rescale": "none"}

# 768-v and base of SD 2.x have the same shapes and the same buffers. Their weights differ: this is the statistic
# by which ComfyUI tells them apart.
V_TELLTALE = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_THRESHOLD = 0.09


def convert(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """A single file -> (config, weights under our names, noise schedule, report).

    state: the file's weights by name, with or without `model.diffusion_model.`; VAE and text encoder are left
    aside. overrides: fields of the config or of the schedule. Raises CheckpointError with a sentence.
    """
    overrides, report = check_overrides(overrides), Report("sd")
    found = contents(state)
    weights = {k: state[name] for k, name in found.unet.items()}
    fields = ldm_spatial({k: tuple(v.shape) for k, v in weights.items()})
    config = _configure(fields, overrides)
    renamed, report.unexpected = rename(weights, {name: name for name in LDM_MODULES})
    weights = match_shapes(config, renamed, report)
    buffers = {k: state[name] for k, name in found.buffers.items()}
    schedule = {**SCHEDULE, **betas_from_buffers(buffers, report)}
    if "v_pred" in buffers:  # markers that fine-tunes carry for ComfyUI
        schedule["prediction"] = "v"
        report.notes.append("the file marks itself as v-prediction")
    elif "prediction" not in overrides:
        schedule["prediction"] = _prediction(config, weights, report)
    if "ztsnr" in buffers:
        schedule |= {"rescale": "lin", "spacing": "trailing"}
    note_ignored(found, report)
    return config, weights, reschedule(schedule, overrides), report


def convert_diffusers(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """diffusers' UNet2DConditionModel, as `convert`."""
    overrides, report = check_overrides(overrides), Report("diffusers-unet2d")
    found = contents(state)
    weights = {k: state[name] for k, name in found.unet.items()}
    config = _configure(diffusers_spatial({k: tuple(v.shape) for k, v in weights.items()}), overrides)
    renamed, report.unexpected = rename(weights, diffusers_names(config))
    weights = match_shapes(config, renamed, report)
    schedule = dict(SCHEDULE)
    if "prediction" not in overrides:
        schedule["prediction"] = _prediction(config, weights, report)
    return config, weights, reschedule(schedule, overrides), report


def _configure(fields: dict, overrides: Mapping) -> UNetConfig:
    if fields["in_channels"] != fields["out_channels"] and "in_channels" not in overrides:
        raise CheckpointError(
            f"it takes {fields['in_channels']} channels and answers {fields['out_channels']}: an inpainting, depth or "
            "editing variant of Stable Diffusion; give the plain text-to-image checkpoint."
        )
    heads = {"num_heads": 8, "head_dim": None} if fields["context_dim"] == SD1_CONTEXT else {"head_dim": 64}
    return configure({**fields, **heads}, overrides)


def _prediction(config: UNetConfig, weights: Mapping[str, Tensor], report: Report) -> str:
    if config.context_dim == SD1_CONTEXT:
        return "eps"
    telltale = weights.get(V_TELLTALE)
    if telltale is not None and float(telltale.float().std(unbiased=False)) > V_THRESHOLD:
        report.notes.append("taken as v-prediction (SD 2.x 768-v) by its weights; override prediction if that is wrong")
        return "v"
    report.notes.append(
        "taken as noise prediction; SD 2.x 768-v has the same shapes, override prediction with 'v' for it"
    )
    return "eps"
