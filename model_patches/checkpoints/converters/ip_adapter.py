"""IP-Adapter and IP-Adapter-plus for Stable Diffusion 1.5 and 2.x -> the image adapter, as a patch.

    ip_adapter.N.to_{k,v}_ip           -> image_adapters.<position>.to_{k,v}_ip
    image_proj.{proj,norm}             -> image_projector.{proj,norm}         base: pooled embedding -> 4 tokens
    image_proj.latents, .layers ...    -> image_projector.latents.weight ...  plus: patch features -> 16 tokens

N counts the attentions of the image network, self and cross in turn, so that those to text are odd: down the encoder,
up the decoder, the middle last.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ....errors import CheckpointError
from ...network.config import UNetConfig
from ...network.layout import layout
from ..files import Header
from .infer import Shapes, check_overrides, configure, projector_fields, shape_of
from .keys import match_shapes, rename
from .report import Report

ADAPTERS, PROJECTOR = "ip_adapter.", "image_proj."
# Token width -> the generation of Stable Diffusion, whose text tokens are as wide.
BASES = {
    768: {"context_dim": 768, "num_heads": 8, "head_dim": None, "linear_projection": False},
    1024: {"context_dim": 1024, "num_heads": None, "head_dim": 64, "linear_projection": True},
}
GIVE = "give IP-Adapter or IP-Adapter-plus for Stable Diffusion 1.5"
# Names inside the projector or the adapters that no other variant has; the first match says what the file is.
VARIANTS = (
    ("perceiver_resampler.", f"this is IP-Adapter FaceID-plus, which needs a face recognition network; {GIVE}"),
    ("_lora.", f"this is IP-Adapter FaceID, which needs a face recognition network; {GIVE}"),
    ("proj.3.", f"this is IP-Adapter full face, whose projector has no place in this network; {GIVE}"),
    ("proj.2.", f"this is IP-Adapter FaceID, which needs a face recognition network; {GIVE}"),
)


def convert(
    state: Mapping[str, Tensor], header: Header | None = None, overrides: Mapping | None = None
) -> tuple[UNetConfig, dict[str, Tensor], None, Report]:
    """An IP-Adapter -> (config of the base with it, its weights under our names, None, report).

    state: the file's weights by name. overrides: fields of the config. There is no noise schedule: it is the base's.
    Raises CheckpointError with a sentence.
    """
    overrides, report = check_overrides(overrides), Report("ip-adapter")
    for sign, what in VARIANTS:
        if any(sign in k for k in state):
            raise CheckpointError(what + ".")
    adapters = {k.removeprefix(ADAPTERS): v for k, v in state.items() if k.startswith(ADAPTERS)}
    projector = {k.removeprefix(PROJECTOR): v for k, v in state.items() if k.startswith(PROJECTOR)}
    fields = _fields(
        {k: tuple(v.shape) for k, v in adapters.items()}, {k: tuple(v.shape) for k, v in projector.items()}, overrides
    )
    # The projector's overrides are already inside, field by field.
    config = configure(fields, {k: v for k, v in overrides.items() if k != "image_projector"})
    renamed, report.unexpected = rename(adapters, adapter_names(config))
    table = {"latents": "image_projector.latents.weight"} | {
        name: f"image_projector.{name}" for name in ("proj", "norm", "proj_in", "proj_out", "norm_out", "layers")
    }
    tokens, extra = rename(projector, table)
    report.unexpected += extra + [k for k in state if not k.startswith((ADAPTERS, PROJECTOR))]
    weights = match_shapes(config, {**renamed, **tokens}, report, "image_adapter")
    reader = config.image_projector
    assert reader is not None  # _fields gives one
    report.notes.append(f"it reads the {reader.reads} features of its CLIP vision encoder, {reader.embedding_dim} wide")
    return config, weights, None, report


def adapter_names(config: UNetConfig) -> dict[str, str]:
    """{number in the source: our module}: cross-attentions have the odd numbers."""
    plan = layout(config)
    attended = [p for p in (*plan.inputs, *plan.outputs, plan.middle[1]) if p.spatial_attention]
    return {str(2 * i + 1): f"image_adapters.{position.name}" for i, position in enumerate(attended)}


def _fields(adapters: Shapes, projector: Shapes, overrides: Mapping) -> dict:
    if "1.to_k_ip.weight" not in adapters:
        raise CheckpointError("it lacks ip_adapter.1.to_k_ip.weight; the file is not complete.")
    width, tokens = shape_of(adapters, "1.to_k_ip.weight")[:2]
    base = BASES.get(tokens)
    if base is None:
        sdxl = " (this one is for SDXL)" if tokens == 2048 else ""
        raise CheckpointError(f"its image tokens are {tokens} wide{sdxl}; {GIVE} (768 wide) or 2.x (1024).")
    return {
        "model_channels": width,
        **base,
        "image_adapter": "all",
        "image_token_dim": tokens,
        "image_projector": _projector(projector, overrides.get("image_projector") or {}),
        "image_uncond": "zeros",
    }


def _projector(shapes: Shapes, overrides: Mapping) -> dict:
    """Fields of the linear form or of the resampler."""
    if "latents" in shapes:
        fixed = {"queries": shape_of(shapes, "latents", 3)[1], "features": "penultimate"}
        return projector_fields(shapes, {**fixed, **overrides})
    if "proj.weight" not in shapes or "norm.weight" not in shapes:
        raise CheckpointError(f"its image projector is of another kind; {GIVE}.")
    (rows, embedding), (output,) = shape_of(shapes, "proj.weight")[:2], shape_of(shapes, "norm.weight", 1)[:1]
    known = {"kind": "linear", "embedding_dim": embedding, "output_dim": output, "queries": rows // output}
    return {**known, **overrides}
