"""What KSampler Long Clip and Continue Clip share: the sizes of pieces, and what a piece of a clip is given.

A piece begins with the last frames of the clip so far. They are known: the latent's noise mask is 0 there, so the host
keeps them as they are, and a network that was trained for it sees them without noise (`bridge/known.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import NodeError
from ..model_patches.network.long_clip import Piece, default_overlap, trained_length
from .bridge.model import VideoModel
from .bridge.windows import PREFIX, cut_conditioning
from .conditioning import MAX_FRAMES, encode_frames, look_at, rgb

CLIP_VISION = io.ClipVision.Input(
    "clip_vision",
    optional=True,
    tooltip="Looks anew at each piece's first frame, where the network reads one. Not wired, the picture that the clip "
    "began with stays in view.",
)


def size_inputs() -> list:
    return [
        io.Int.Input(
            "context_length",
            default=0,
            min=0,
            max=MAX_FRAMES,
            tooltip="Frames that the network sees at once. 0: as many as it was trained with.",
        ),
        io.Int.Input(
            "context_overlap",
            default=0,
            min=0,
            max=MAX_FRAMES,
            tooltip="Frames that a piece takes over from the clip so far: more carry motion on, each costs time. 0: as "
            "many as the network was trained to take over; else 1 where it animates a picture, a quarter of "
            "context_length where not.",
        ),
    ]


def sizes_for(network: VideoModel, length: int, overlap: int) -> tuple[int, int]:
    """The two widgets, 0 replaced by what the network was trained for."""
    config = network.video_config
    length = length or trained_length(config, network.schedule.trained_shape)
    return length, overlap or default_overlap(config, length)


def check_sizes(network: VideoModel, length: int, overlap: int) -> None:
    """Whether pieces of this length go on from one another."""
    if length == 1:
        trained = trained_length(network.video_config, network.schedule.trained_shape)
        raise NodeError(
            "context_length: a piece of 1 frame cannot go on from another, and this network was trained with "
            f"{'single pictures' if trained == 1 else f'{trained} frames'}; say how many it should see at once."
        )
    if not overlap < length:
        raise NodeError(f"context_overlap: {overlap} of {length} frames leave no room for new ones; take over fewer.")


def frames_in_batch(latent: dict, field: str = "samples") -> Tensor:
    samples = latent["samples"]
    if samples.ndim != 4 or not len(samples):
        raise NodeError(
            f"{field}: wire a clip with its frames in the batch, as Image to Video (DreamFactory) gives it."
        )
    return samples


class ClipSoFar:
    """The frames there are already: latents (t, c, h, w), or pictures, which are encoded when they are asked for."""

    def __init__(self, vae, frames: Tensor, pictures: bool = False) -> None:
        self.vae, self.frames, self.pictures = vae, frames, pictures

    def check(self) -> None:
        """Whether pictures have a size in latents."""
        ratio = self.vae.spacial_compression_encode()
        if self.pictures and any(side % ratio for side in self.frames.shape[1:3]):
            height, width = self.frames.shape[1:3]
            raise NodeError(
                f"images: {width}x{height} pixels do not divide into latents of {ratio}; scale them to a multiple."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.pictures:
            return self.frames.shape[2], self.frames.shape[1]
        ratio = self.vae.spacial_compression_encode()
        return self.frames.shape[3] * ratio, self.frames.shape[2] * ratio

    def __getitem__(self, frames: slice) -> Tensor:
        if not self.pictures:
            return self.frames[frames]
        return encode_frames(self.vae, "images", self.frames[frames], *self.size)

    def picture(self, frame: int) -> Tensor:
        """One frame as pixels (1, h, w, 3)."""
        if not self.pictures:
            return self.vae.decode(self.frames[frame : frame + 1])
        return rgb("images", self.frames[frame : frame + 1])


def conditioning_of(
    sides: Sequence[list],
    piece: Piece,
    clip: ClipSoFar,
    clip_vision,
    own_picture: bool = False,
    last_frame: Tensor | None = None,
) -> list[list]:
    """The whole clip's conditionings, positive and negative, as those of a piece.

    Its frames of all that is given by frame; and the frame of the clip so far that it is shown as its first. Where that
    is the clip's very first the conditioning's own picture stays, if it has one; own_picture: the clip's counts.
    """
    cut = cut_conditioning(sides, piece.start, piece.length)
    values: dict = {"distance": piece.distance, "frames": piece.length}
    if piece.known:
        shown = own_picture or piece.picture > 0 or not _has(cut, "first_frame")
        if shown:
            values["first_frame"] = clip[piece.picture : piece.picture + 1]
        if clip_vision is not None and (shown or not _has(cut, "image")):
            values |= look_at(clip_vision, clip.picture(piece.picture))
    if last_frame is not None:
        values["last_frame"] = last_frame
    named = {PREFIX + name: value for name, value in values.items()}
    return [node_helpers.conditioning_set_values(side, named) for side in cut]


def _has(sides: Sequence[list], name: str) -> bool:
    return all(PREFIX + name in values for side in sides for _, values in side)


def known_mask(like: Tensor, piece: Piece) -> Tensor:
    """(t, 1, h, w): 0 for frames that stay, 1 for those to make."""
    mask = torch.ones((piece.length, 1, *like.shape[2:]))
    mask[: piece.known] = 0
    return mask
