"""Continue Clip and Join Clips: the pieces of a long clip one by one, for any sampler."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import NodeError
from ..model_patches.network.long_clip import Piece, picture_at
from .bridge.tell import tell
from .bridge.windows import check_by_frame
from .checked import CheckedNode
from .conditioning import MAX_FRAMES, encode_frames
from .patches import video_model
from .pieces import (
    CLIP_VISION,
    ClipSoFar,
    check_sizes,
    conditioning_of,
    frames_in_batch,
    known_mask,
    size_inputs,
    sizes_for,
)


class ContinueClip(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryContinueClip",
            display_name="Continue Clip (DreamFactory)",
            category="DreamFactory/conditioning",
            description="The next piece of a clip, for any sampler: it begins with the clip's last frames, which stay "
            "as they are. Join Clips puts the piece behind the clip. KSampler Long Clip does all of it, piece after "
            "piece.",
            search_aliases=["extend video", "long video", "video continuation", "last frame", "loop video"],
            inputs=[
                io.Model.Input("model", tooltip="The video MODEL that goes on with the clip."),
                io.Conditioning.Input("positive", tooltip="From Image to Video; a new prompt may go through one too."),
                io.Conditioning.Input("negative", tooltip="From Image to Video."),
                io.Vae.Input("vae", tooltip="The VAE the network was trained with."),
                *size_inputs(),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="End where the clip began; only for interpolation networks (DynamiCrafter interp).",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="The clip so far, from a sampler or Join Clips. Better than images: nothing is encoded "
                    "again.",
                ),
                io.Image.Input("images", optional=True, tooltip="The clip so far as pictures, a loaded video's say."),
                io.Image.Input(
                    "last_frame",
                    optional=True,
                    tooltip="Where the piece should end; only for interpolation networks (DynamiCrafter interp).",
                ),
                CLIP_VISION,
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="To the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="To the sampler."),
                io.Latent.Output(display_name="latent", tooltip="The piece: known frames, and room for new ones."),
                io.Int.Output(display_name="context_overlap", tooltip="How many frames are known; to Join Clips."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        vae,
        context_length,
        context_overlap,
        loop,
        samples=None,
        images=None,
        last_frame=None,
        clip_vision=None,
    ) -> io.NodeOutput:
        network = video_model(model)
        if samples is not None and images is None:
            done = ClipSoFar(vae, samples["samples"])
        elif images is not None and samples is None:
            done = ClipSoFar(vae, images, pictures=True)
        else:
            raise NodeError("samples: wire the clip so far as samples, or as images; one of the two.")
        if loop and last_frame is not None:
            raise NodeError("loop: it ends where the clip began, and last_frame says otherwise; choose one.")
        joins = network.video_config.first_frame_concat == "ends"
        if joins and not loop and last_frame is None:
            raise NodeError(
                "last_frame: an interpolation network joins two pictures; wire where the piece ends, or loop."
            )
        if not joins and (loop or last_frame is not None):
            raise NodeError(
                f"{'loop' if loop else 'last_frame'}: this video model has no place for a last frame; only "
                "interpolation networks end where you say."
            )
        if samples is not None:
            frames_in_batch(samples)
        count = len(done.frames)
        length, overlap = sizes_for(network, context_length, context_overlap)
        overlap = min(overlap, count) if not context_overlap else overlap
        check_sizes(network, length, overlap)
        if overlap > count:
            raise NodeError(f"context_overlap: {overlap} frames of a clip of {count}; take over fewer.")
        start = count - overlap
        piece = Piece(start, length, overlap, picture_at(start, network.video_config.first_frame_reach))
        for side, conditioning in (("positive", positive), ("negative", negative)):
            check_by_frame(side, conditioning, start + length, count + 1)
        done.check()
        last = done[:1] if loop else None
        if last_frame is not None:
            last = encode_frames(vae, "last_frame", last_frame[-1:], *done.size)
        sides = conditioning_of(
            (positive, negative), piece, done, clip_vision, own_picture=images is not None, last_frame=last
        )
        known = done[start:]
        new = torch.zeros((length - overlap, *known.shape[1:]), dtype=known.dtype, device=known.device)
        latent = {"samples": torch.cat([known, new]), "noise_mask": known_mask(known, piece)}
        return io.NodeOutput(*sides, latent, overlap)


class JoinClips(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        kind = io.MatchType.Template("clip", [io.Latent, io.Image])
        return io.Schema(
            node_id="DreamFactoryJoinClips",
            display_name="Join Clips (DreamFactory)",
            category="DreamFactory/conditioning",
            description="Puts a piece from Continue Clip behind the clip it goes on from: the frames that both hold "
            "come once.",
            search_aliases=["extend video", "concatenate clips", "merge videos", "remove duplicate frames"],
            inputs=[
                io.MatchType.Input("clip", template=kind, tooltip="The clip so far: samples, or images."),
                io.MatchType.Input("piece", template=kind, tooltip="The piece that goes on from it, of the same kind."),
                io.Int.Input(
                    "context_overlap",
                    default=1,
                    min=0,
                    max=MAX_FRAMES,
                    tooltip="Frames at the piece's beginning that are the clip's last ones; wire Continue Clip's.",
                ),
                io.Float.Input(
                    "hold_colours",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Brings the piece's colours back to the clip's, as far as the frames that both hold differ "
                    "(images that were encoded and decoded again). Frames that are equal change nothing.",
                ),
            ],
            outputs=[io.MatchType.Output(template=kind, display_name="clip", tooltip="The longer clip.")],
        )

    @classmethod
    def execute(cls, clip, piece, context_overlap, hold_colours) -> io.NodeOutput:
        if isinstance(clip, dict) != isinstance(piece, dict):
            raise NodeError("piece: one of the two is samples, the other images; wire two of a kind.")
        if not isinstance(clip, dict):
            return io.NodeOutput(join(clip, piece, context_overlap, hold_colours, channels=-1).clamp(0, 1))
        joined = join(
            frames_in_batch(clip, "clip"), frames_in_batch(piece, "piece"), context_overlap, hold_colours, channels=1
        )
        return io.NodeOutput({"samples": joined})


def _tell_where_they_differ(clip: Tensor, piece: Tensor, overlap: int) -> None:
    """Whether the piece's first frames are the clip's last: Continue Clip says how many are."""

    def apart(count: int) -> float:
        return (clip[-count:].float() - piece[:count].to(clip).float()).abs().mean().item() if count else 0.0

    spread = clip.float().std().item()
    same = [n for n in range(1, min(len(clip), len(piece) - 1, SHARED) + 1) if apart(n) <= ALIKE * spread]
    if overlap not in same and (overlap or same):
        right = f"the first {max(same)} are" if same else "none is"
        told = f"The piece's first {overlap} frames are not the clip's last; {right}."
        tell(f"{told} Wire Continue Clip's context_overlap.")


SHARED = 32  # frames at most that are looked at
ALIKE = 0.1  # of the clip's deviation: pictures that were encoded and decoded again differ by less
FLAT = 0.02  # deviation of a channel, of 1: below it shared frames say where it lies, and not how strong it is
GAIN = (0.5, 2.0)  # codecs change contrast by less


def join(clip: Tensor, piece: Tensor, overlap: int, hold_colours: float, channels: int) -> Tensor:
    """Frames of both, the shared ones once; the piece's mean and deviation of each channel as the clip has them there.

    clip, piece: (t, ...) frames; channels: their dimension of colours.
    """
    if clip.shape[1:] != piece.shape[1:]:
        raise NodeError(f"piece: its frames are {_shape(piece)}, the clip's {_shape(clip)}; join two of one size.")
    if overlap > min(len(clip), len(piece)):
        raise NodeError(
            f"context_overlap: {overlap} shared frames, and there are {len(clip)} and {len(piece)}; wire Continue "
            "Clip's number."
        )
    if overlap == len(piece):
        raise NodeError(
            f"context_overlap: all {overlap} frames of the piece are the clip's; nothing new is left of it."
        )
    new = piece[overlap:].to(clip)
    shared = piece[:overlap].to(clip)
    _tell_where_they_differ(clip, piece, overlap)
    if overlap and hold_colours and not torch.equal(shared, clip[-overlap:]):
        over = [d for d in range(clip.ndim) if d != channels % clip.ndim]
        (spread, mean), (wanted, level) = (
            torch.std_mean(x.float(), dim=over, keepdim=True) for x in (shared, clip[-overlap:])
        )
        flat = torch.minimum(spread, wanted) < FLAT
        gain = torch.where(flat, 1.0, wanted / spread.clamp(min=FLAT)).clamp(*GAIN)
        new = torch.lerp(new.float(), (new.float() - mean) * gain + level, hold_colours).to(clip)
    return torch.cat([clip, new])


def _shape(frames: Tensor) -> str:
    return "x".join(str(side) for side in frames.shape[1:])
