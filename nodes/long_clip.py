"""KSampler Long Clip: clips longer than a network sees at once, piece by piece."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import NodeError
from ..model_patches.network.long_clip import Piece, pieces
from .bridge.advice import advise_on_pieces, be_quiet
from .bridge.sampling import seen_together
from .bridge.windows import check_by_frame
from .checked import CheckedNode
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
                *size_inputs(),
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
            frames_in_batch(latent_image, "latent_image"),
            latent_image.get("downscale_ratio_spacial"),
            latent_image.get("downscale_ratio_temporal"),
        )
        length, overlap = sizes_for(network, context_length, context_overlap)
        if len(room) > length:
            check_sizes(network, length, overlap)
            if network.video_config.first_frame_concat == "ends":
                raise NodeError(
                    f"model: an interpolation network joins two pictures in {length} frames; for more, join its clips "
                    "from picture to picture by Continue Clip and Join Clips."
                )
        plan = pieces(len(room), length, overlap, network.video_config.first_frame_reach)
        if len(plan) > 1:
            for side, conditioning in (("positive", positive), ("negative", negative)):
                check_by_frame(side, conditioning, len(room), plan[-1].start + plan[-1].known + 1, whole=True)
        mask = latent_image.get("noise_mask")
        mask = None if mask is None else comfy.utils.repeat_to_batch_size(mask, len(room))
        drawn = latent_image.get("batch_index")
        if drawn is not None and len(drawn) != len(room):
            raise NodeError(
                f"latent_image: its batch_index names {len(drawn)} frames, and it has {len(room)}; give it anew with "
                "Image to Video."
            )
        shown = _Progress(model, steps, len(plan))
        if len(plan) > 1:
            advise_on_pieces(model, (positive, negative), len(room), overlap, not room.any())
        done = room[:0]
        for number, piece in enumerate(plan):
            sides = (positive, negative)
            if len(plan) > 1:
                sides = conditioning_of(sides, piece, ClipSoFar(vae, done), clip_vision)
            part = room[piece.start : piece.start + piece.length]
            short = piece.length - len(part)  # the last piece reaches beyond the end
            if short:
                part = torch.cat([part, torch.zeros_like(part[:1]).expand(short, -1, -1, -1)])
            part = torch.cat([done[piece.start :], part[piece.known :]])
            seen = seen_together(model, list(range(piece.start, piece.start + piece.length)), len(room))
            if number:
                be_quiet(seen)  # it was told once
            made = comfy.sample.sample(
                seen,
                comfy.sample.prepare_noise(part, (seed + number) % 2**64, _drawn(drawn, piece)),
                steps,
                cfg,
                sampler_name,
                scheduler,
                *sides,
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


def _mask_of(piece: Piece, mask: Tensor | None, done: Tensor) -> Tensor | None:
    """The same beside the latent's own mask (t, ...), of which a piece takes its frames."""
    if mask is None:
        return known_mask(done, piece) if piece.known else None
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
