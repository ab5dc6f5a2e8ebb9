"""A video MODEL as a file of ours: LoRAs and merges in the weights, config and noise schedule in the header."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.float
import comfy.lora
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import NodeError, reason
from ..model_patches.checkpoints.save import check_network, save_network
from .bridge.folders import is_inside, name_input_in_errors
from .checked import CheckedNode
from .loaders import WEIGHT_DTYPES
from .patches import video_model

PREFIX = "diffusion_model."
KEPT_AS = {name: dtype for name, dtype in WEIGHT_DTYPES.items() if not name.startswith("fp8")}


class SaveVideoUNet(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactorySaveVideoUNet",
            display_name="Save Video UNet",
            category="DreamFactory/loaders",
            description="Write a video MODEL into output/diffusion_models, its LoRAs and merges in the weights and its "
            "architecture and noise schedule in the header, so that Load Video UNet opens it again. ComfyUI's own "
            "ModelSave leaves both out, and nothing can load such a file.",
            search_aliases=["model save", "save checkpoint", "merge", "bake lora", "export model"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="A video MODEL of this pack, with LoRAs or merged with another one."),
                io.String.Input(
                    "filename_prefix",
                    default="diffusion_models/DreamFactory",
                    tooltip="Where in the output folder, and the name's beginning; a number follows. Files in "
                    "diffusion_models are listed by Load Video UNet.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(KEPT_AS),
                    default="default",
                    tooltip="How weights are kept in the file. default keeps the type they were loaded in.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, filename_prefix, weight_dtype) -> io.NodeOutput:
        network = video_model(model)
        path, shown = place(filename_prefix)
        with name_input_in_errors("model"):
            weights = patched_weights(model, KEPT_AS[weight_dtype])
            check_network(network.video_config, weights, "the network with its LoRAs")
        with name_input_in_errors("filename_prefix", path, shown):
            save_network(network.video_config, weights, path, schedule=network.schedule.to_dict())
        return io.NodeOutput(ui={"text": [shown]})


def place(prefix: str) -> tuple[str, str]:
    """The next free file of this prefix: its path, and how it reads from the output folder."""
    output = folder_paths.get_output_directory()
    if not is_inside(os.path.join(output, prefix), [output]):
        raise NodeError(f"filename_prefix: {prefix!r} is no place in the output folder; choose one there.")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise NodeError(f"filename_prefix: {prefix!r} cannot be written: {reason(error)}.") from error
    if not name.strip("."):
        raise NodeError(f"filename_prefix: {prefix!r} holds no name; give one, such as diffusion_models/merged.")
    file = f"{name}_{counter:05}_.safetensors"
    return str(Path(folder, file)), os.path.join(subfolder, file)


def patched_weights(model, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The weights of a MODEL's network with its patches, in `dtype`, or in the network's where that is None.

    Patches are added in float32 on the CPU to weights in the network's dtype, so it does not matter what the host has
    moved or patched meanwhile, nor whether it casts weights when it reads a file or when they are needed.
    """
    weights, own = {}, model.model.get_dtype()
    for key, ((weight, _), *patches) in model.get_key_patches(PREFIX).items():
        weight = weight.to(own if weight.is_floating_point() else weight.dtype)
        kept = dtype or weight.dtype
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight.to("cpu", torch.float32, copy=True), key)
            weight = comfy.float.stochastic_rounding(weight, kept, seed=comfy.utils.string_to_seed(key))
        weights[key.removeprefix(PREFIX)] = weight.to("cpu", kept)
    return weights
