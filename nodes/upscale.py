"""Clips larger by an image upscaler: any that the host's Load Upscale Model opens, and RCAN files of ours.

The frames go through the network a few at a time, into one result that is there from the start. The host's own node
keeps a clip in memory several times over, and spoils it with an RCAN, whose code in spandrel overwrites its input.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..errors import LibraryError, NodeError, out_of_memory
from ..libraries import library
from ..model_patches.dtypes import DTYPES
from ..model_patches.upscaling.enlarge import MIN_TILE, Enlarger, one_by_one
from ..model_patches.upscaling.sizes import check_target, resize_cover_crop
from ..model_patches.upscaling.upscaler import Upscaler, check_dtype, upscaler_of
from .bridge.folders import name_input_in_errors
from .checked import CheckedNode
from .conditioning import rgb

MAX_SIDE = 16384
FLOATS = 384  # a pixel and colour of the input, for each step of scale: the host's own guess for its upscale node


class UpscaleVideo(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryUpscaleVideo",
            display_name="Upscale Video (with Model)",
            category="DreamFactory",
            description="Enlarges the frames of a clip with an image upscaler, to an exact size if you want one: "
            "344x192 from the sampler becomes 1376x768 (VideoFactory, section 4). Works a few frames at a time, shows "
            "the newest one, and takes smaller pieces by itself where memory does not suffice.",
            search_aliases=[
                "super resolution",
                "video upscale",
                "upscale images batch",
                "enlarge video",
                "rcan",
                "esrgan",
                "upscale with model",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The frames of the clip, from VAE Decode or a video loader."),
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="From Load Upscale Model: ESRGAN, SwinIR, HAT and whatever else it opens, and RCAN files "
                    "trained with DreamFactory. It must enlarge: x2, x3, x4 or x8.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=2,
                    tooltip="Pixels of the result. 0 follows height in the clip's proportions; with both 0 the clip "
                    "gets as large as the model makes it. Never larger than that.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=2,
                    tooltip="Pixels of the result. 0 follows width. With both given, what sticks out is cropped at "
                    "the edges, the same on both sides.",
                ),
                io.Int.Input(
                    "frames_at_once",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Frames in one pass of an RCAN on a GPU: more is faster, and takes more memory. Other "
                    "models, and a CPU, always take one after the other.",
                ),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=4096,
                    step=16,
                    optional=True,
                    advanced=True,
                    tooltip="Side of the pieces that a frame is cut into, in pixels before enlarging; 64 or more. 0 "
                    "takes frames whole, and cuts them only when memory runs out.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="fp32",
                    optional=True,
                    advanced=True,
                    tooltip="What the model computes in. bf16 and fp16 halve memory and are faster on a GPU, with a "
                    "little less accuracy; not every model can.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The enlarged frames, for Create Video.")],
        )

    @classmethod
    def execute(cls, images, upscale_model, width, height, frames_at_once, tile=0, precision="fp32") -> io.NodeOutput:
        rgb("images", images[:1])
        with name_input_in_errors("upscale_model"):
            upscaler = isolated_copy(upscale_model)
        with name_input_in_errors("precision"):
            check_dtype(upscaler, DTYPES[precision])
        if 0 < tile < MIN_TILE:
            raise NodeError(f"tile: {tile} pixels are too few; give {MIN_TILE} or more, or 0 for whole frames.")
        h, w = images.shape[1:3]
        size = result_size(upscaler.scale, h, w, height, width)
        device = getattr(getattr(upscale_model, "patcher", None), "load_device", management.get_torch_device())
        at_once = 1 if one_by_one(upscaler, device) else min(frames_at_once, len(images))
        result = _result(images, size, upscaler.scale, at_once)
        try:
            make_room(upscaler, device, DTYPES[precision], images[:at_once], tile)
            with name_input_in_errors("upscale_model"):
                enlarger = Enlarger(
                    upscaler,
                    device,
                    DTYPES[precision],
                    tile=tile or None,
                    at_once=at_once,
                    is_oom=lambda error: management.is_oom(error) or out_of_memory(error),
                    make_room=partial(_unload_others, device),
                    free=None if management.is_device_cpu(device) else partial(management.get_free_memory, device),
                    say=_say,
                )
            _enlarge(images, enlarger, result)
        finally:
            upscaler.network.to("meta")  # nobody else has these weights; what the card held of them is free at once
            management.soft_empty_cache()
        return io.NodeOutput(result)


# -- the network ------------------------------------------------------------------------------------------------------


def load_upscale_model(path: str | Path):
    """What the host's Load Upscale Model makes of a file: an ImageModelDescriptor of spandrel's."""
    try:  # no part of ComfyUI must be there for it to start, and this is one that need not
        spandrel = library("spandrel", "an upscaler")
    except LibraryError as error:
        raise NodeError(str(error)) from error
    descriptor = spandrel.ModelLoader().load_from_state_dict(comfy.utils.load_torch_file(str(path), safe_load=True))
    descriptor.patcher = comfy.model_patcher.CoreModelPatcher(
        descriptor.eval().model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )
    return descriptor


def isolated_copy(descriptor: Any) -> Upscaler:
    """The upscaler of an UPSCALE_MODEL, which other nodes have too: what is done to this one stays here.

    Its weights are the host's until they are moved or change their type. While it computes, Cancel stops it between
    any two layers. Raises CheckpointError for what enlarges no images.
    """
    upscaler = upscaler_of(descriptor)
    if upscaler.call is not None:  # else it is an RCAN, a network of ours already
        twin = copy.copy(descriptor)
        twin._model = clone_sharing_weights(upscaler.network)
        upscaler = replace(upscaler, network=twin.model, call=twin)
    for module in upscaler.network.modules():
        module.register_forward_pre_hook(stop_if_cancelled)
    return upscaler


def clone_sharing_weights(network: nn.Module) -> nn.Module:
    """Objects of their own around the same weights, as some networks change what they hold while they compute.

    Dicts and sets that hang on it stay as they are: the host keeps pinned memory in them, which no copy may free.
    """
    same: dict = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    same |= {id(b): b.detach() for b in network.buffers()}
    same |= {id(v): v for k, v in vars(network).items() if isinstance(v, (dict, set)) and not k.startswith("_")}
    return copy.deepcopy(network, same)


def stop_if_cancelled(*_) -> None:
    management.throw_exception_if_processing_interrupted()


# -- memory -----------------------------------------------------------------------------------------------------------


def _result(images: Tensor, size: tuple[int, int], scale: int, at_once: int) -> Tensor:
    """An empty clip where the host keeps those between nodes; refused where there is no room for it."""
    frames, (height, width) = len(images), size
    device, dtype = management.intermediate_device(), management.intermediate_dtype()
    one_pass = at_once * 3 * scale**2 * images.shape[1] * images.shape[2]
    needed = frames * height * width * 3 * dtype.itemsize + 2 * 4 * one_pass
    if not management.is_device_cpu(device):
        management.free_memory(needed, device)
    free = management.get_free_memory(device)
    if needed > free:
        count = "1 frame" if frames == 1 else f"{frames} frames"
        raise NodeError(
            f"images: {count} of {width}x{height} need {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free: fewer frames, a smaller size, or `dreamfactory upscale`, which needs memory for a few frames only."
        )
    return torch.empty(frames, height, width, 3, device=device, dtype=dtype)


def make_room(upscaler: Upscaler, device: torch.device, dtype: torch.dtype, images: Tensor, tile: int) -> None:
    """Let the host move other networks out of the way, such as the one that made the clip."""
    if management.is_device_cpu(device):
        return
    frames, h, w, _ = images.shape
    pixels = frames * (min(tile**2, h * w) if tile else h * w)
    floats = 3 * pixels * FLOATS * upscaler.scale + sum(p.numel() for p in upscaler.network.parameters())
    management.free_memory(floats * dtype.itemsize + management.extra_reserved_memory(), device)


def _unload_others(device: torch.device) -> None:
    """What else the host has loaded makes room before another try."""
    if not management.is_device_cpu(device):
        management.unload_all_models()
        management.soft_empty_cache()


def _say(text: str) -> None:
    logging.info("Upscale Video: %s", text)


# -- frames -----------------------------------------------------------------------------------------------------------


def result_size(scale: int, h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the result for frames of h x w; what is 0 follows, to an even number, as video wants it."""
    if not width and not height:
        return scale * h, scale * w
    with name_input_in_errors("height" if not width or (height > scale * h and width <= scale * w) else "width"):
        wanted = height or _even(width * h / w), width or _even(height * w / h)
        check_target(scale, h, w, *wanted)
    return wanted


def _even(side: float) -> int:
    return max(2, min(2 * round(side / 2), math.ceil(side) // 2 * 2))


def _enlarge(images: Tensor, enlarger: Enlarger, result: Tensor) -> None:
    """The result becomes the enlarged images, from the first to the last."""
    frames, height, width, _ = result.shape
    bar = comfy.utils.ProgressBar(frames)
    done = 0
    while done < frames:
        management.throw_exception_if_processing_interrupted()
        some = rgb("images", images[done : done + (enlarger.at_once or frames)]).movedim(-1, 1).contiguous()
        if not torch.isfinite(some).all():
            raise NodeError(
                f"images: frames {done} to {done + len(some) - 1} hold numbers that are no picture (NaN or infinite); "
                "decode them with a VAE in fp32."
            )
        with name_input_in_errors("upscale_model"):
            larger = resize_cover_crop(enlarger(some), height, width).movedim(1, -1)
        result[done : done + len(larger)] = larger
        done += len(larger)
        newest = latent_preview.preview_to_image(larger[-1], do_scale=False)
        bar.update_absolute(done, frames, ("JPEG", newest, latent_preview.MAX_PREVIEW_RESOLUTION))
