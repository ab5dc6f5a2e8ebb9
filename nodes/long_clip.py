"""Clips longer than a network sees at once: Continue Clip and Join Clips for one piece, KSampler Long Clip for all.

A piece begins with the last frames of the clip so far. They are known: the latent's noise mask is 0 there, so the host
keeps them as they are, and a network that was trained for it sees them without noise (`known.py`).
"""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..model_patches.long_clip import Piece, default_overlap, picture_at, pieces, trained_length
from .checked import CheckedNode
from .conditioning import MAX_FRAMES, encode_frames, look_at
from .errors import NodeError
from .model import PREFIX, VideoModel
from .patches import video_model
from .sampling import seen_together
from .windows import cut_conditioning


def _sizes() -> list:
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
            "many as the network was trained to take over, else its last one.",
        ),
    ]


CLIP_VISION = io.ClipVision.Input(
    "clip_vision",
    optional=True,
    tooltip="Looks anew at each piece's first frame, where the network reads one. Not wired, the picture that the clip "
    "began with stays in view.",
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
                *_sizes(),
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
        if (samples is None) == (images is None):
            raise NodeError("samples: wire the clip so far as samples, or as images; one of the two.")
        if network.video_config.first_frame_concat == "ends" and not loop and last_frame is None:
            raise NodeError(
                "last_frame: an interpolation network joins two pictures; wire where the piece ends, or loop."
            )
        if loop and last_frame is not None:
            raise NodeError("loop: it ends where the clip began, and last_frame says otherwise; choose one.")
        count = len(_frames_in_batch(samples) if images is None else images)
        length, overlap = _sizes_for(network, context_length, context_overlap)
        overlap = min(overlap, count) if not context_overlap else overlap
        if overlap > count:
            raise NodeError(f"context_overlap: {overlap} frames of a clip of {count}; take over fewer.")
        start = count - overlap
        piece = Piece(start, length, overlap, picture_at(start, network.video_config.first_frame_reach))
        done = _Clip(vae, samples, images)
        last = done[:1] if loop else None
        if last_frame is not None:
            last = encode_frames(vae, "last_frame", last_frame[-1:], *done.size)
        sides = [
            _piece_of(side, conditioning, piece, done, vae, clip_vision, last)
            for side, conditioning in (("positive", positive), ("negative", negative))
        ]
        known = done[start:]
        new = torch.zeros((length - overlap, *known.shape[1:]), dtype=known.dtype, device=known.device)
        latent = {"samples": torch.cat([known, new]), "noise_mask": _known_mask(known, piece)}
        return io.NodeOutput(sides[0], sides[1], latent, overlap)


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
            return io.NodeOutput(join(clip, piece, context_overlap, hold_colours, channels=-1))
        joined = join(
            _frames_in_batch(clip, "clip"), _frames_in_batch(piece, "piece"), context_overlap, hold_colours, channels=1
        )
        return io.NodeOutput({"samples": joined})


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
    new = piece[overlap:].to(clip)
    shared = piece[:overlap].to(clip)
    if overlap and hold_colours and not torch.equal(shared, clip[-overlap:]):
        over = [d for d in range(clip.ndim) if d != channels % clip.ndim]
        theirs, ours = (torch.std_mean(x.float(), dim=over, keepdim=True) for x in (shared, clip[-overlap:]))
        held = (new.float() - theirs[1]) * (ours[0] / theirs[0].clamp(min=1e-6)) + ours[1]
        new = torch.lerp(new.float(), held, hold_colours).to(clip)
    return torch.cat([clip, new])


class KSamplerLongClip(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryKSamplerLongClip",
            display_name="KSampler Long Clip (DreamFactory)",
            category="DreamFactory/sampling",
            description="KSampler for clips longer than the network was trained with: makes them piece by piece, each "
            "going on from the last frames of the one before. A clip that fits is sampled as KSampler does.",
            search_aliases=["long video", "extend video", "video continuation", "endless", "sampler"],
            inputs=[
                io.Model.Input("model", tooltip="A video MODEL of this pack."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the first piece's noise; each further piece counts one on.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Of each piece."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="As KSampler's."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="As KSampler's."),
                io.Conditioning.Input("positive", tooltip="From Image to Video."),
                io.Conditioning.Input("negative", tooltip="From Image to Video."),
                io.Latent.Input("latent_image", tooltip="The whole clip, from Image to Video: its frames are made."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Below 1 keeps of the latent's clip."
                ),
                *_sizes(),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Only beside clip_vision: it needs to see a piece's first frame."
                ),
                CLIP_VISION,
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The whole clip.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent_image,
        denoise,
        context_length,
        context_overlap,
        vae=None,
        clip_vision=None,
    ) -> io.NodeOutput:
        network = video_model(model)
        if clip_vision is not None and vae is None:
            raise NodeError("vae: clip_vision looks at each piece's first frame; wire the VAE that shows it.")
        if "context_handler" in model.model_options:
            raise NodeError("model: it has context windows, and this sampler makes its own pieces; take them out.")
        room = comfy.sample.fix_empty_latent_channels(
            model,
            _frames_in_batch(latent_image, "latent_image"),
            latent_image.get("downscale_ratio_spacial"),
            latent_image.get("downscale_ratio_temporal"),
        )
        length, overlap = _sizes_for(network, context_length, context_overlap)
        plan = pieces(len(room), length, overlap, network.video_config.first_frame_reach)
        if len(plan) > 1 and network.video_config.first_frame_concat == "ends":
            raise NodeError(
                f"model: an interpolation network joins two pictures in {length} frames; for more, join its clips from "
                "picture to picture by Continue Clip and Join Clips."
            )
        mask = latent_image.get("noise_mask")
        mask = None if mask is None else comfy.utils.repeat_to_batch_size(mask, len(room))
        drawn = latent_image.get("batch_index")
        if drawn is not None and len(drawn) != len(room):
            raise NodeError(
                f"latent_image: its batch_index names {len(drawn)} frames, and it has {len(room)}; give it anew with "
                "Image to Video."
            )
        shown = _Progress(model, steps, len(plan))
        sides, done = (("positive", positive), ("negative", negative)), room[:0]
        for number, piece in enumerate(plan):
            first, second = (_piece_of(side, c, piece, done, vae, clip_vision) for side, c in sides)
            part = room[piece.start : piece.start + piece.length]
            short = piece.length - len(part)  # the last piece reaches beyond the end
            if short:
                part = torch.cat([part, torch.zeros_like(part[:1]).expand(short, -1, -1, -1)])
            part = torch.cat([done[piece.start :], part[piece.known :]])
            made = comfy.sample.sample(
                seen_together(model, list(range(piece.start, piece.start + piece.length)), len(room)),
                comfy.sample.prepare_noise(part, (seed + number) % 2**64, _drawn(drawn, piece)),
                steps,
                cfg,
                sampler_name,
                scheduler,
                first,
                second,
                part,
                denoise=denoise,
                noise_mask=_mask_of(piece, mask, done),
                callback=shown.callback(number),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=(seed + number) % 2**64,
            )
            done = torch.cat([done.to(made), made[piece.known :]])
        kept = {name: value for name, value in latent_image.items() if not name.startswith("downscale_ratio")}
        return io.NodeOutput({**kept, "samples": done[: len(room)]})


class _Progress:
    """One bar over the steps of all pieces, with the host's previews."""

    def __init__(self, model, steps: int, count: int) -> None:
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.bar, self.count = comfy.utils.ProgressBar(steps * count), count

    def callback(self, number: int):
        def step(done, x0, x, total) -> None:
            shown = None if self.previewer is None else self.previewer.decode_latent_to_preview_image("JPEG", x0)
            self.bar.update_absolute(number * total + done + 1, self.count * total, shown)

        return step


class _Clip:
    """The clip so far as latents, of which pictures are encoded when they are asked for."""

    def __init__(self, vae, samples: dict | None, images: Tensor | None) -> None:
        self.vae, self.samples, self.images = vae, samples, images
        self.ratio = vae.spacial_compression_encode()
        if images is not None and any(side % self.ratio for side in images.shape[1:3]):
            height, width = images.shape[1:3]
            raise NodeError(
                f"images: {width}x{height} pixels do not divide into latents of {self.ratio}; scale them to a multiple."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.images is not None:
            return self.images.shape[2], self.images.shape[1]
        return self.samples["samples"].shape[3] * self.ratio, self.samples["samples"].shape[2] * self.ratio

    def __getitem__(self, frames: slice) -> Tensor:
        if self.images is None:
            return self.samples["samples"][frames]
        return encode_frames(self.vae, "images", self.images[frames], *self.size)


# -- parts --------------------------------------------------------------------------------------------------------


def _frames_in_batch(latent: dict, field: str = "samples") -> Tensor:
    samples = latent["samples"]
    if samples.ndim != 4 or not len(samples):
        raise NodeError(
            f"{field}: wire a clip with its frames in the batch, as Image to Video (DreamFactory) gives it."
        )
    return samples


def _sizes_for(network: VideoModel, length: int, overlap: int) -> tuple[int, int]:
    """The two widgets, 0 replaced by what the network was trained for."""
    config = network.video_config
    trained = trained_length(config, network.schedule.trained_shape)
    if (length or trained) == 1:
        raise NodeError(
            "context_length: a piece of 1 frame cannot go on from another, and this network was trained with "
            f"{'single pictures' if trained == 1 else f'{trained} frames'}; say how many it should see at once."
        )
    length = length or trained
    overlap = overlap or default_overlap(config, length)
    if not overlap < length:
        raise NodeError(f"context_overlap: {overlap} of {length} frames leave no room for new ones; take over fewer.")
    return length, overlap


def _piece_of(
    side: str, conditioning, piece: Piece, done: Tensor | _Clip, vae, clip_vision, last: Tensor | None = None
):
    """The whole clip's conditioning as that of a piece: its frames of all that is given by frame, its first frame."""
    conditioning = cut_conditioning(side, conditioning, piece.start, piece.length, piece.known)
    values = {"distance": piece.distance, "frames": piece.length}
    if last is not None:
        values["last_frame"] = last
    if piece.known and piece.picture > 0:
        picture = done[piece.picture : piece.picture + 1]
        values["first_frame"] = picture
        if clip_vision is not None:
            values |= look_at(clip_vision, vae.decode(picture))
    elif piece.known and not any(PREFIX + "first_frame" in values for _, values in conditioning):
        values["first_frame"] = done[:1]
    return node_helpers.conditioning_set_values(conditioning, {PREFIX + k: v for k, v in values.items()})


def _known_mask(like: Tensor, piece: Piece) -> Tensor:
    """(t, 1, h, w): 0 for frames that stay, 1 for those to make."""
    mask = torch.ones((piece.length, 1, *like.shape[2:]))
    mask[: piece.known] = 0
    return mask


def _mask_of(piece: Piece, mask: Tensor | None, done: Tensor) -> Tensor | None:
    """The same beside the latent's own mask (t, ...), of which a piece takes its frames."""
    if mask is None:
        return _known_mask(done, piece) if piece.known else None
    own = mask[piece.start : piece.start + piece.length].clone()
    own = torch.cat([own, own[-1:].expand(piece.length - len(own), *own.shape[1:])])
    own[: piece.known] = 0
    return own


def _drawn(batch_index: list[int] | None, piece: Piece) -> list[int] | None:
    """Which of a seed's draws a piece's frames take, where the latent says so for the clip's frames."""
    if batch_index is None:
        return None
    own = batch_index[piece.start : piece.start + piece.length]
    return own + [own[-1] + 1 + i for i in range(piece.length - len(own))]


def _shape(frames: Tensor) -> str:
    return "x".join(str(side) for side in frames.shape[1:])
