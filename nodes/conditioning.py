"""Image to video: what is seen, what happens and the first frame become conditionings and an empty clip."""

from __future__ import annotations

import copy
import math

import comfy.model_management
import comfy.utils
import node_helpers
import torch
from comfy_api.latest import io

from ..errors import NodeError
from .bridge.windows import PREFIX
from .checked import CheckedNode

MAX_FRAMES = 1024
MAX_SIDE = 8192


class ImageToVideo(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryImageToVideo",
            display_name="Image to Video (DreamFactory)",
            category="DreamFactory/conditioning",
            description="Wire a picture and its captions for a video network: text says what is seen, motion text "
            "(T5) what happens. Gives positive, negative and an empty latent of the clip for any sampler.",
            search_aliases=[
                "i2v",
                "animate image",
                "first frame",
                "dynamicrafter",
                "motion text",
                "empty video latent",
            ],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="What is seen, from CLIP Text Encode. Several rows are one prompt a frame."
                ),
                io.Conditioning.Input("negative", tooltip="What should not be seen; an empty prompt is fine."),
                io.Vae.Input("vae", tooltip="The VAE the network was trained with (Stable Diffusion's for most)."),
                io.Int.Input(
                    "width", default=512, min=16, max=MAX_SIDE, step=8, tooltip="Pixels; the picture is cropped to fit."
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=16,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Pixels; the picture is cropped to fit.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=MAX_FRAMES,
                    tooltip="Length of the clip. Most networks were trained with 16; for longer ones take "
                    "KSampler Long Clip, or without a first frame ComfyUI's Context Windows. One frame makes a still "
                    "picture.",
                ),
                io.Image.Input(
                    "first_frame",
                    optional=True,
                    tooltip="The picture to animate. Under Context Windows it may be one a frame: each window begins "
                    "with its own. For a clip from each of several pictures put Rebatch Images (batch_size 1) before "
                    "this node. Leave open for text-to-video networks; with an IP-Adapter on them it is the picture to "
                    "look at, not the clip's first.",
                ),
                io.Image.Input(
                    "last_frame",
                    optional=True,
                    tooltip="Where the clip should end; only for interpolation networks (DynamiCrafter interp).",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder of networks with an image adapter (DynamiCrafter and IP-Adapter: "
                    "OpenCLIP ViT-H). It looks at the first frame.",
                ),
                io.Conditioning.Input(
                    "motion_positive",
                    optional=True,
                    tooltip="What happens, encoded with the network's T5. Only for networks that read motion text.",
                ),
                io.Conditioning.Input(
                    "motion_negative",
                    optional=True,
                    tooltip="What should not happen, encoded with the same T5; an empty prompt is usual.",
                ),
                io.Float.Input(
                    "frame_rate",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="How fast the clip should look, for networks trained with it: frames a second "
                    "(DynamiCrafter 512 and 1024, lower moves more) or frame stride (DynamiCrafter 256, higher moves "
                    "more). 0 takes the network's own default.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="To the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="To the sampler."),
                io.Latent.Output(display_name="latent", tooltip="An empty clip: one latent a frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        vae,
        width,
        height,
        frames,
        first_frame=None,
        last_frame=None,
        clip_vision=None,
        motion_positive=None,
        motion_negative=None,
        frame_rate=0.0,
    ) -> io.NodeOutput:
        ratio = vae.spacial_compression_encode()
        for name, side in (("width", width), ("height", height)):
            if side % ratio:
                raise NodeError(
                    f"{name}: {side} is no multiple of {ratio}, the pixels of one latent; use {near(side, ratio)}."
                )
        # What may be refused comes before encoders run.
        if first_frame is not None and len(first_frame) not in (1, frames):
            raise NodeError(
                f"first_frame: {len(first_frame)} pictures for {frames} frames; give one, or one a frame. For a clip "
                "from each picture, put Rebatch Images (batch_size 1) before this node."
            )
        shape = (frames, vae.latent_channels, height // ratio, width // ratio)
        _check_memory(shape, width, height)
        if last_frame is not None and first_frame is None:
            raise NodeError("last_frame: it needs a first_frame to start from; wire one.")
        if (motion_positive is None) != (motion_negative is None):
            missing = "motion_positive" if motion_positive is None else "motion_negative"
            raise NodeError(f"{missing}: motion text needs both sides; encode an empty prompt for it.")
        shared: dict = {}
        if first_frame is not None:
            shared["first_frame"] = encode_frames(vae, "first_frame", first_frame, width, height)
            if clip_vision is not None:
                shared |= look_at(clip_vision, rgb("first_frame", first_frame))
        if last_frame is not None:
            shared["last_frame"] = encode_frames(vae, "last_frame", last_frame[-1:], width, height)
        shared["frames"] = frames
        if frame_rate:
            shared["frame_rate"] = frame_rate
        sides = []
        for field, conditioning, motion in (
            ("motion_positive", positive, motion_positive),
            ("motion_negative", negative, motion_negative),
        ):
            values = dict(shared)
            if motion is not None:
                values["motion_text"] = _motion(field, motion)
            sides.append(node_helpers.conditioning_set_values(conditioning, {PREFIX + k: v for k, v in values.items()}))
        samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
        return io.NodeOutput(sides[0], sides[1], {"samples": samples})


COPIES = 3  # of a clip's latent that sampling holds in the machine's memory at least: the latent, its noise, the result


def _check_memory(shape: tuple[int, int, int, int], width: int, height: int) -> None:
    """Refuse a clip whose latents alone do not fit the machine, before encoders run."""
    needed = 4 * math.prod(shape) * COPIES
    free = comfy.model_management.get_free_memory(comfy.model_management.intermediate_device())
    if needed > free:
        raise NodeError(
            f"frames: {shape[0]} frames of {width}x{height} need {needed / 1e9:.1f} GB for their latents alone and "
            f"{free / 1e9:.1f} GB are free; give fewer frames or a smaller size."
        )


def encode_frames(vae, field: str, images: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Pictures (b, h, w, c), scaled and cropped to a size in pixels -> latents (b, z, height/8, width/8)."""
    return vae.encode(_fit(field, images, width, height))


def look_at(clip_vision, images: torch.Tensor) -> dict:
    """What the image encoder sees of pictures (b, h, w, 3), one row each; and of none.

    All of a picture, squashed to the encoder's square: the adapter should see what a crop would cut. Which of the
    two stands for no picture is the network's affair (`UNetConfig.image_uncond`).
    """
    none = images[:1]
    return {
        "image": clip_vision.encode_image(images, crop=False),
        "grey_image": clip_vision.encode_image(torch.full_like(none, 0.5), crop=False),
        "zero_image": _without_mean(clip_vision).encode_image(torch.zeros_like(none), crop=False),
    }


def near(side: int, unit: int) -> int:
    """The nearest multiple of a unit, at least one."""
    return max(unit, round(side / unit) * unit)


def rgb(field: str, images: torch.Tensor) -> torch.Tensor:
    """(b, h, w, c) with c = 1 (grey), 3 or 4 (alpha, put on white) -> (b, h, w, 3)."""
    if images.shape[0] < 1:
        raise NodeError(f"{field}: the batch holds no picture; wire one.")
    channels = images.shape[-1]
    if channels == 1:
        return images.expand(*images.shape[:-1], 3)
    if channels == 4:
        alpha = images[..., 3:]
        return images[..., :3] * alpha + (1 - alpha)
    if channels != 3:
        raise NodeError(f"{field}: the picture has {channels} channels; give grey, RGB or RGBA.")
    return images


def _fit(field: str, images: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Scaled and cropped at the centre to the clip's size, (b, height, width, 3) in [0, 1]."""
    images = rgb(field, images).movedim(-1, 1)
    if images.shape[2:] != (height, width):
        method = "bicubic" if images.shape[3] < width or images.shape[2] < height else "area"
        images = comfy.utils.common_upscale(images, width, height, method, "center")
    return images.movedim(1, -1).clamp(0, 1)


def _without_mean(clip_vision):
    """The same encoder, to which black is zeros: no colour is, once the host has rounded it to 8 bits."""
    encoder = copy.copy(clip_vision)
    encoder.image_mean = [0.0, 0.0, 0.0]
    return encoder


def _motion(field: str, conditioning) -> torch.Tensor:
    if len(conditioning) != 1 or conditioning[0][0].shape[0] != 1:
        raise NodeError(f"{field}: motion text is one prompt for the whole clip; do not combine or batch it.")
    return conditioning[0][0]
