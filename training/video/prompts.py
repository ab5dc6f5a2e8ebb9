"""`[[output.prompts]]`: what one wants to see at every validation, as batches that a network can be asked with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError, TrainingError
from ...model_patches import UNetConfig
from ...pipelines.encoders import one_caption
from ...pipelines.image_to_video import reads_picture
from ...pipelines.media.files import read_image
from ..batch import Batch, Bucket
from ..config import DataConfig, PromptConfig
from ..encode import FrozenEncoders


@dataclass(frozen=True)
class Asked:
    """A prompt of one's own, of a stage's size. picture: (3, h, w) in [0, 1]."""

    caption: str
    bucket: Bucket
    picture: Tensor | None
    batch: Batch


def read_prompts(
    prompts: tuple[PromptConfig, ...], data: DataConfig, network: UNetConfig, encoders: FrozenEncoders | None
) -> list[Asked]:
    """encoders: those that a cache is made with, which are gone when it is full: then captions come as tokens.

    Raises TrainingError with a sentence: a picture that is missing, of no use, or cannot be read.
    """
    return [_read(f"output.prompts[{i}]", p, data, network, encoders) for i, p in enumerate(prompts, start=1)]


def _read(
    name: str, prompt: PromptConfig, data: DataConfig, network: UNetConfig, encoders: FrozenEncoders | None
) -> Asked:
    if prompt.picture is None and reads_picture(network):
        raise TrainingError(f"{name} has no picture, and this network animates one; name it as {name}.picture.")
    if prompt.picture is not None and not reads_picture(network):
        raise TrainingError(f"{name}.picture is {prompt.picture}, and this network sees no picture; leave it out.")
    bucket = Bucket(data.frames, data.height, data.width)
    picture = None
    if prompt.picture is not None:
        try:
            picture = read_image(Path(prompt.picture), data.height, data.width).squeeze(0)
        except InputError as error:
            raise TrainingError(f"{name}.picture: {error}") from error
    motion = prompt.text if prompt.motion is None else prompt.motion
    text = one_caption(prompt.text, motion) if network.motion_text == "off" else prompt.text
    still = torch.full((3, data.height, data.width), 0.5) if picture is None else picture
    rate = torch.tensor([data.fps]) if network.frame_rate_embedding == "fps" and data.fps else None
    batch = Batch([text], [motion], still.expand(1, data.frames, -1, -1, -1), frame_rate=rate)
    if encoders is not None:
        batch.text = encoders.text(text)[None]
        batch.motion = encoders.motion(motion)[None] if network.motion_text != "off" else None
        if network.image_adapter != "off" and network.image_projector is not None:
            batch.image = encoders.image(still)[None]
    return Asked(one_caption(prompt.text, motion), bucket, picture, batch)
