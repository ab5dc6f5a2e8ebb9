"""Loaders of single files: a video network, text encoders of any size."""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..errors import NodeError
from ..model_patches.dtypes import DTYPES
from ..model_patches.network.presets import OVERRIDES
from .bridge.folders import name_input_in_errors, names, path_of, stamp
from .bridge.loading import load_video_model
from .bridge.text_encoder import load_text_encoder
from .checked import CheckedNode

WEIGHT_DTYPES = {
    "default": None,
    **DTYPES,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
WHOLE = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)")  # what transformers calls a folder's weights

RELEASES = {
    "from the file": {},
    "DynamiCrafter 512": OVERRIDES["dynamicrafter-512"],
    "DynamiCrafter 1024": OVERRIDES["dynamicrafter-1024"],
    "DynamiCrafter 512 interp / ToonCrafter": OVERRIDES["dynamicrafter-512-interp"],
}


class LoadVideoUNet(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryLoadVideoUNet",
            display_name="Load Video UNet",
            category="DreamFactory/loaders",
            description="Load a video network from models/diffusion_models: DreamFactory's own files, and public "
            "weights of ModelScope text-to-video, VideoCrafter1 (image-to-video), VideoCrafter2 and DynamiCrafter, "
            "which are recognised by their contents and converted in memory. AnimateDiff's motion modules go through "
            "Put Motion on SD Model instead.",
            search_aliases=["dynamicrafter", "videocrafter", "modelscope", "tooncrafter", "unet loader", "i2v", "t2v"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=names("diffusion_models"),
                    tooltip="A file in models/diffusion_models: .safetensors, or .ckpt, .pt, .pth, .bin, of "
                    "which the weights alone are read and no code is run. File names mean nothing: the weights say "
                    "what they are.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="How weights are kept in memory. default lets ComfyUI choose for your device. fp8 halves "
                    "the memory of fp16 and costs some quality; the computation stays in a wider type.",
                ),
                io.Combo.Input(
                    "release",
                    options=list(RELEASES),
                    default="from the file",
                    optional=True,
                    advanced=True,
                    tooltip="Only for pruned public files that do not tell which release they are: DynamiCrafter 512 "
                    "and 1024 differ in their noise schedule, the interpolation models in where frames enter.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="An ordinary MODEL: works with KSampler, LoRA loaders, ControlNet, Context Windows, "
                    "EasyCache and the rest.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name, **_):
        return stamp(folder_paths.get_full_path("diffusion_models", unet_name) or "")

    @classmethod
    def execute(cls, unet_name, weight_dtype, release="from the file") -> io.NodeOutput:
        path = path_of("unet_name", unet_name, "diffusion_models")
        with name_input_in_errors("unet_name", path, unet_name):
            return io.NodeOutput(load_video_model(path, WEIGHT_DTYPES[weight_dtype], RELEASES[release] or None))


class LoadTextEncoder(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryLoadTextEncoder",
            display_name="Load Text Encoder (any size)",
            category="DreamFactory/loaders",
            description="Load a T5 encoder (small, base, large, v1.1, flan, XL, XXL) or a CLIP text encoder from one "
            "file or a transformers folder in models/text_encoders. All sizes are read from the weights.",
            search_aliases=["t5", "flan", "clip loader", "motion text encoder", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=_encoders(),
                    tooltip="A file in models/text_encoders, or a folder there with config.json, model.safetensors (or "
                    "pytorch_model.bin) and a tokenizer.",
                ),
                io.Combo.Input(
                    "layer",
                    options=["auto", "last", "penultimate"],
                    default="auto",
                    optional=True,
                    tooltip="Which layer of a CLIP encoder is read. auto takes the last one, and the one before for "
                    "OpenCLIP ViT-H, as Stable Diffusion 2 does. T5 always gives its last.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="How weights are kept in memory. default lets ComfyUI choose.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="Length every prompt is padded or cut to. 0 takes the tokenizer's own, and 120 for T5 "
                    "where none is stated; give the length the video network was trained with.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder_name, **_):
        path = Path(_encoder_path(encoder_name) or "missing")
        return "\n".join(map(stamp, sorted(path.iterdir()) if path.is_dir() else [path]))

    @classmethod
    def execute(cls, encoder_name, layer="auto", weight_dtype="default", max_tokens=0) -> io.NodeOutput:
        path = _encoder_path(encoder_name)
        if path is None:
            raise NodeError(
                f"encoder_name: there is no {encoder_name!r} in models/text_encoders; refresh and choose again."
            )
        with name_input_in_errors("encoder_name", path, encoder_name):
            return io.NodeOutput(_encoder(path, layer, max_tokens, weight_dtype))


def _encoder(path: str, layer: str, max_tokens: int, weight_dtype: str):
    return load_text_encoder(path, layer=layer, max_length=max_tokens or None, dtype=WEIGHT_DTYPES[weight_dtype])


def _encoders() -> list[str]:
    """Files; a transformers folder in place of its model.safetensors or shards."""
    listed = set()
    for name in names("text_encoders"):
        folder, file = os.path.split(name)
        path = _listed(name) if folder and WHOLE.fullmatch(file) else None  # None too of a link that leads nowhere
        whole = path is not None and (Path(path).parent / "config.json").is_file()
        listed.add(folder if whole else name)
    return sorted(listed)


def _encoder_path(name: str) -> str | None:
    """Of a name that the node lists: a link may bring any other."""
    if name not in _encoders():
        return None
    for root in folder_paths.get_folder_paths("text_encoders"):
        if (Path(root) / name / "config.json").is_file():
            return str(Path(root) / name)
    return _listed(name)


def _listed(name: str) -> str | None:
    return folder_paths.get_full_path("text_encoders", name)
