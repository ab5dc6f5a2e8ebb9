"""The LVDM family: VideoCrafter2, VideoCrafter1 image-to-video, DynamiCrafter 256, 512, 512-interp and 1024.

ModelScope's names and computation (modelscope.py) with, in this order of history: a frame-rate embedding, image
keys and values in the spatial cross-attentions, a resampler, four first-frame channels. The file's buffers say
which noise it was trained with; shapes do not tell DynamiCrafter 512 from its interpolation model.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...network.config import UNetConfig
from ..files import Header
from .infer import (
    SCHEDULE,
    Shapes,
    betas_from_buffers,
    check_overrides,
    configure,
    ldm_spatial,
    projector_fields,
    reschedule,
    shape_of,
    signal_scale_from_buffers,
)
from .keys import contents, match_shapes, note_ignored, rename
from .modelscope import temporal_fields, temporal_names
from .report import Report

TOKENS_PER_FRAME = 16
# DynamiCrafter's v-models: sampled trailing, with guidance rescale 0.7.
V_MODEL = {"prediction": "v", "rescale": "lin", "spacing": "trailing", "guidance_rescale": 0.7}


def convert(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], dict, Report]:
    """LVDM weights -> (config, weights under our names, noise schedule, report).

    state: the file's weights by name, in any of the released wrappings; encoders and VAE are left aside.
    overrides: fields of the config or of the schedule (`first_frame_concat="ends"` for interpolation models).
    Raises CheckpointError with a sentence.
    """
    overrides, report = check_overrides(overrides), Report("lvdm")
    found = contents(state)
    weights = {k: state[name] for k, name in found.unet.items()}
    shapes = {k: tuple(v.shape) for k, v in weights.items()}
    projector = {k: state[name] for k, name in found.projector.items()}
    buffers = {k: state[name] for k, name in found.buffers.items()}
    buffers = {k: table for k, table in buffers.items() if table.ndim == 1 and len(table) > 1}

    spatial = ldm_spatial(shapes)
    schedule = reschedule(_schedule(shapes, spatial, buffers, report), overrides)
    fields = {
        **spatial,
        **temporal_fields(shapes, "init_attn.0", overrides),
        **_first_frame(spatial, schedule, overrides, report),
        **_adapter(shapes, spatial, {k: tuple(v.shape) for k, v in projector.items()}, overrides, report),
        **_frame_rate(shapes, spatial, schedule, overrides),
    }
    # The projector's overrides are already inside, field by field.
    config = configure(fields, {k: v for k, v in overrides.items() if k != "image_projector"})
    renamed, report.unexpected = rename(weights, temporal_names(config))
    table = {"latents": "image_projector.latents.weight"} | {
        name: f"image_projector.{name}" for name in ("proj_in", "proj_out", "norm_out", "layers")
    }
    resampler, extra = rename(projector, table)
    report.unexpected += extra
    weights = match_shapes(config, {**renamed, **resampler}, report)
    note_ignored(found, report)
    return config, weights, schedule, report


def _counts_strides(shapes: Shapes) -> bool:
    """DynamiCrafter 256, by its name for the frame embedding, or where a save renamed that by its learnable scales."""
    return "framestride_embed.0.weight" in shapes or any(k.endswith("attn2.alpha") for k in shapes)


def _is_hybrid(spatial: Mapping) -> bool:
    """DynamiCrafter: the first frame's latent beside the noisy one."""
    return spatial["in_channels"] == 2 * spatial["out_channels"]


def _first_frame(spatial: Mapping, schedule: Mapping, overrides: Mapping, report: Report) -> dict:
    if not _is_hybrid(spatial):
        return {}
    if "first_frame_concat" not in overrides and schedule["prediction"] == "v" and schedule["signal_scale"] != 0.3:
        report.notes.append(
            "taken as image to video; DynamiCrafter 512-interp and ToonCrafter have the same shapes, override "
            "first_frame_concat with 'ends' for them"
        )
    return {"in_channels": spatial["out_channels"], "first_frame_concat": "repeat"}


def _adapter(shapes: Shapes, spatial: Mapping, projector: Shapes, overrides: Mapping, report: Report) -> dict:
    keys = [k for k in shapes if k.endswith("attn2.to_k_ip.weight")]
    if not keys:
        return {}
    fields = {
        "image_adapter": "up" if all(k.startswith("output_blocks") for k in keys) else "all",
        "image_token_dim": shape_of(shapes, keys[0])[1],
        "image_scale": "learnable" if any(k.endswith("attn2.alpha") for k in shapes) else "fixed",
        "image_projector": projector_fields(projector, overrides.get("image_projector")) if projector else None,
        "image_uncond": "grey",  # a picture of zeros, in their range of -1 to 1
    }
    if fields["image_projector"] is None:
        report.notes.append("there is no image projector in the file; image tokens must come from elsewhere")
        per_frame = _is_hybrid(spatial)
    else:
        per_frame = fields["image_projector"]["frames"] is not None
    if per_frame:
        queries = (fields["image_projector"] or {}).get("queries", TOKENS_PER_FRAME)
        fields["image_tokens_per_frame"] = queries
    return fields


def _frame_rate(shapes: Shapes, spatial: Mapping, schedule: Mapping, overrides: Mapping) -> dict:
    """The unit, and the default as each release states it."""
    if not {"framestride_embed.0.weight", "fps_embedding.0.weight"} & shapes.keys():
        return {}
    if _counts_strides(shapes):
        return {"frame_rate_embedding": "stride", "frame_rate_default": 3}
    if not _is_hybrid(spatial):
        default = 8 if any(k.endswith("to_k_ip.weight") for k in shapes) else 16
    elif overrides.get("first_frame_concat") == "ends":
        default = 5
    else:
        default = 10 if schedule["signal_scale"] == 0.3 else 24
    return {"frame_rate_embedding": "fps", "frame_rate_default": default}


def _schedule(shapes: Shapes, spatial: Mapping, buffers: Mapping[str, Tensor], report: Report) -> dict:
    """From the file's buffers; where pruned files lack them, what the released models of this shape use."""
    schedule = {**SCHEDULE, **betas_from_buffers(buffers, report)}
    stride = _counts_strides(shapes)
    v_model = _is_hybrid(spatial) and not stride
    recip, alphas = buffers.get("sqrt_recip_alphas_cumprod"), buffers.get("alphas_cumprod")
    guessed = []
    if recip is not None:  # the source fills it with zeros where the prediction is v
        v_model = not bool(recip.any())
    elif alphas is not None:
        v_model = float(alphas[-1]) == 0
    else:
        guessed.append("prediction")
    if v_model:
        schedule |= V_MODEL
    if alphas is not None:
        schedule["rescale"] = "lin" if float(alphas[-1]) == 0 else "none"
    scale = signal_scale_from_buffers(buffers)
    if scale is not None:
        schedule |= scale
    elif not stride:
        schedule["signal_scale"] = 0.7
        guessed.append("signal_scale")
    if guessed:
        values = " and ".join(f"{name} {schedule[name]}" for name in guessed)
        report.notes.append(f"the file does not say it: {values} as the released models of this shape; override if not")
    return schedule
