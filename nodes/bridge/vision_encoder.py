"""CLIP vision encoders of any size as the host's CLIP_VISION.

The host's own loader picks one of a few fixed configs by the layer count; from a transformers folder every size
comes from config.json here. The host prepares pictures itself: rounded to 8 bits, and cropped to a square where
`encode_image(crop=True)`; with crop=False it squashes them, as pipelines.encoders.ImageEncoder does.
"""

from __future__ import annotations

from pathlib import Path

import comfy.clip_model
import comfy.clip_vision
import torch
from torch import nn

from ...errors import NodeError, blameless, some
from ...model_patches.checkpoints.foreign_config import CLIP_VISION, checked
from .text_weights import ACTIVATIONS, Source

MODEL_TYPES = ("clip_vision_model", "clip")
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "patch_size",
    "image_size",
)  # fmt: skip
PROJECTION = "visual_projection.weight"


def load_vision_encoder(path: str | Path) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP_VISION socket from a transformers folder, or from a file of a size the host knows.

    Its `encode_image(images (b, h, w, 3) in [0, 1])` gives image_embeds (b, d), last_hidden_state and
    penultimate_hidden_states (b, n, width). Raises NodeError or CheckpointError with one sentence.
    """
    source = Source.open(path)
    if source.folder is None:
        return _standard(source)
    declared = source.model_type()
    if declared not in MODEL_TYPES:
        raise NodeError(f"{source.path} holds a {declared!r} model; expected a CLIP vision encoder.")
    config = _config(source)
    names = _own(source)
    _check(source, config, {own: source.shapes[name] for own, name in names.items()})
    loaded = source.read()
    return _load(source, config, {own: loaded[name] for own, name in names.items()})


def _config(source: Source) -> dict:
    declared = source.config()
    vision = getattr(declared, "vision_config", None) or declared
    stated = {name: getattr(vision, name) for name in SIZES}
    # Before a network is built of them, which is compared with the weights then.
    known = {name: CLIP_VISION[name] for name in SIZES}
    config = checked(stated, known, source.path / "config.json", len(source.shapes), nulls=False)
    # A whole CLIP states the projection outside of its vision half, where it need not be right.
    config["projection_dim"] = source.shapes.get(PROJECTION, (vision.projection_dim,))[0]
    config["hidden_act"] = ACTIVATIONS.get(vision.hidden_act, vision.hidden_act)
    if config["hidden_act"] not in comfy.clip_model.ACTIVATIONS:
        raise NodeError(
            f"{source.path} has the activation {vision.hidden_act!r}; ComfyUI's encoders know "
            f"{', '.join(comfy.clip_model.ACTIVATIONS)}."
        )
    if vision.layer_norm_eps != 1e-5:
        raise NodeError(f"{source.path} has layer_norm_eps {vision.layer_norm_eps}; ComfyUI's vision encoders 1e-05.")
    return config | {"model_type": "clip_vision_model"}


def _own(source: Source) -> dict[str, str]:
    """{the host's name: name on disk}, without a whole CLIP's text half and constants."""
    names = {}
    for name in source.shapes:
        own = name if name.startswith(("vision_model.", "visual_projection.")) else f"vision_model.{name}"
        if not name.startswith(("text_model.", "text_projection.", "logit_scale")) and "position_ids" not in name:
            names[own] = name
    return names


def _check(source: Source, config: dict, shapes: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, torch.device("meta"), nn)
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = [k for k in {**expected, **shapes} if expected.get(k) != shapes.get(k)]
    if wrong:
        raise NodeError(
            f"{source.path} has {len(wrong)} weights that are missing, unknown or of another shape than config.json "
            f"asks for ({some(wrong)}); download or save it again."
        )


def _load(source: Source, config: dict, weights: dict) -> comfy.clip_vision.ClipVisionModel:
    model = comfy.clip_vision.ClipVisionModel(config)
    absent, _ = model.load_sd(weights)
    if absent:
        raise NodeError(f"{source.path} lacks {len(absent)} weights ({some(absent)}); download or save it again.")
    return model


def _standard(source: Source) -> comfy.clip_vision.ClipVisionModel:
    """A file of a size the host's own loader knows."""
    try:
        model = comfy.clip_vision.load(str(source.path))
    except (RuntimeError, KeyError, UnboundLocalError) as error:  # another size than its layer count stands for
        if blameless(error):
            raise
        model = None
    if model is None or not _fits(model):
        raise NodeError(
            f"{source.path} is no vision encoder of a size ComfyUI knows; give a transformers folder with config.json."
        )
    absent = [k for k in model.get_sd() if k not in source.shapes and k.startswith("vision_model.")]
    converted = "visual.transformer.resblocks.0.attn.in_proj_weight" in source.shapes  # OpenCLIP's names
    if absent and not converted:
        raise NodeError(f"{source.path} lacks {len(absent)} weights ({some(absent)}); download or save it again.")
    return model


def _fits(model: comfy.clip_vision.ClipVisionModel) -> bool:
    """Whether every weight has the shape of the config the host chose: loading dynamically, it takes any."""
    kind, meta = comfy.clip_vision.IMAGE_ENCODERS[model.model_type], torch.device("meta")
    with meta:
        expected = kind(model.config, torch.float32, meta, nn).state_dict()
    return all(k in expected and v.shape == expected[k].shape for k, v in model.get_sd().items())
