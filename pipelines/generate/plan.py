"""Every default in its place and everything checked that can be, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import InputError, reason
from ...files import fingerprint
from ...model_patches.network.long_clip import animates_picture, is_far, pieces, stated_length
from ...model_patches.upscaling.sizes import check_target
from ...model_patches.upscaling.upscaler import Upscaler
from ..bundle import DEMOS, Bundle, files_of
from ..encoders import WORD, TextEncoder, one_caption
from ..image_to_video import check_settings, check_size, reads_picture, seen_at_once
from ..lora import Lora
from ..media.files import check_picture
from ..text_to_image import TextToImage
from ..upscale import LARGEST, parse_size
from .request import Request, is_text

SHOWN = 20  # unknown words that a note names
RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)
LONGEST = 200  # bytes of a file's name, so that its companions' are within a file system's 255


@dataclass(frozen=True)
class Networks:
    """What computes, the same for every clip of a list. None: what the checkpoint brings, or nothing."""

    checkpoint: str = "demo"
    vae: str | None = None
    text_encoder: str | None = None
    motion_encoder: str | None = None
    image_encoder: str | None = None
    text_layer: str | None = None
    attention: str = "sdpa"
    lora: tuple[Lora, ...] = ()
    first_frame_from: str | None = None
    first_frame_tokenizer: str | None = None
    upscale: str | None = None

    def record(self) -> dict:
        """What a clip's metadata say of them."""
        told = {k: v for k, v in asdict(self).items() if v is not None and k != "lora"}
        return told | ({"lora": [f"{lora.path}:{lora.strength:g}" for lora in self.lora]} if self.lora else {})

    def files(self) -> list[str]:
        """Every file and folder that is read, but those that come with the pack."""
        files = [] if self.checkpoint in DEMOS else [str(path) for path in files_of(self.checkpoint)]
        files += [self.vae, self.text_encoder, self.motion_encoder, self.image_encoder]
        files += [self.first_frame_from, self.first_frame_tokenizer, self.upscale, *(lora.path for lora in self.lora)]
        return [file for file in files if file is not None and file not in DEMOS]

    def fingerprints(self) -> dict[str, str]:
        """Of every file and folder that is read."""
        try:
            return {file: fingerprint(file) for file in self.files() if Path(file).exists()}
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {reason(error)}.") from error


@dataclass(frozen=True)
class Drawing:
    """A first frame to draw, nothing of it left open."""

    out: Path
    size: tuple[int, int]  # height, width
    seed: int
    steps: int
    guidance_scale: float
    record: dict  # for the picture's metadata


@dataclass(frozen=True, eq=False)
class Job:
    """A clip to make, nothing of it left open."""

    line: int  # of the list; 0: there is none
    request: Request  # with every default in its place
    out: Path
    sheet: Path | None
    frames: int
    steps: int
    fps: float
    size: tuple[int, int]  # height, width of the clip
    target: tuple[int, int]  # of the file
    record: dict  # for the clip's metadata
    drawing: Drawing | None

    @property
    def caption(self) -> str:
        return one_caption(self.request.text, self.request.motion) or "no caption"


def check_request(request: Request, draws: bool, looked_at: set[str] | None = None) -> None:
    """What needs no network to be refused. draws: whether a first frame is drawn where none is named.

    looked_at: pictures that are known to be good; those of this request join them.
    """
    looked_at = set() if looked_at is None else looked_at
    for name, value in asdict(request).items():
        if isinstance(value, str) and not is_text(value):
            remedy = "rename the file" if name in ("image", "last_image") else "write it again"
            raise InputError(f"{name} holds characters that are no text; {remedy}.")
    check_settings(request.settings)
    ranges = {"fps": (0.1, 240), "scale": (1, 16), "first_frame_steps": (1, 1000)}
    ranges |= {"first_frame_guidance_scale": (0, 100), "first_frame_seed": (0, 2**63 - 1)}
    for name, (low, high) in ranges.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}; expected {low} to {high}.")
    for name in ("size", "first_frame_size"):
        if getattr(request, name) is not None:
            parse_size(getattr(request, name), name)
    if request.size is not None and request.scale > 1:
        raise InputError("size says how large the file is, and scale enlarges its pixels; give one of the two.")
    if request.out is not None:
        _check_name(request.out)
    for picture in (request.image, request.last_image):
        if picture is not None and picture not in looked_at:
            check_picture(picture)
            looked_at.add(picture)
    if not draws:
        asked = [
            f.name
            for f in fields(Request)
            if f.name.startswith("first_frame") and getattr(request, f.name) not in (None, "")
        ]
        if asked:
            raise InputError(f"{asked[0]} is of a picture that is drawn; name what draws it by --first-frame-from.")


def _check_name(out: str) -> None:
    """Of a clip in a list's folder: one that every file system takes, so that folders can be copied."""
    if not out.endswith(".mp4") or out.startswith(".") or "/" in out:
        raise InputError(f"out is {out[:60]!r}; expected a file name that ends in .mp4.")
    if re.search(r'[\x00-\x1f<>:"\\|?*]', out) or RESERVED.fullmatch(out.split(".")[0].rstrip()):
        raise InputError(f"out is {out[:60]!r}, a name that Windows cannot have; choose another.")
    if len(out.encode()) > LONGEST:
        raise InputError(f"out is {len(out.encode())} bytes long; expected up to {LONGEST}.")


@dataclass(frozen=True)
class Planner:
    """What is known of the networks once they are read."""

    networks: Networks
    bundle: Bundle
    painter: TextToImage | None
    upscaler: Upscaler | None
    numbers: dict  # device and dtype

    def job(self, line: int, request: Request, out: Path, sheet: bool = True) -> Job:
        """A request with every default in its place; sheet and picture lie beside the clip.

        Raises InputError or ConfigError with one sentence.
        """
        reads, defaults = reads_picture(self.bundle.unet.config), self.bundle.defaults
        self._check_captions(request, reads)
        size, target = self._sizes(request)
        frames = defaults.frames if request.frames is None else request.frames
        steps = defaults.steps if request.steps is None else request.steps
        fps = defaults.fps if request.fps is None else request.fps
        request = self._defaults(replace(request, steps=steps, fps=fps), frames, size)
        check_size(self.bundle, frames, *size)
        drawing = None
        if reads and request.image is None:
            assert self.painter is not None  # else the request was refused
            request, drawing = self._drawn(self.painter, request, out.with_name(f"{out.stem}_first_frame.png"))
        record = self._record(request, target) | ({"first_frame": drawing.out.name} if drawing is not None else {})
        sheet_at = out.with_name(f"{out.stem}_sheet.png") if sheet else None
        given = {Path(path).resolve() for path in (request.image, request.last_image) if path is not None}
        for made in (sheet_at, None if drawing is None else drawing.out):
            if made is not None and made.resolve() in given:
                raise InputError(
                    f"{made} would be written over the picture the clip is made from; choose another --out."
                )
        return Job(line, request, out, sheet_at, frames, steps, fps, size, target, record, drawing)

    def _check_captions(self, request: Request, reads: bool) -> None:
        name, config = self.bundle.name, self.bundle.unet.config
        if not reads:
            for given, option in ((request.image, "--image"), (self.networks.first_frame_from, "--first-frame-from")):
                if given is not None:
                    raise InputError(f"{name} makes video from text alone and looks at no picture; leave {option} out.")
            if not (request.text or request.motion):
                raise InputError(f"{name} makes video from text alone; say with --text what it should show.")
        elif request.image is None and self.painter is None:
            raise InputError(
                f"{name} animates a picture; name one by --image, or a Stable Diffusion that draws it by "
                "--first-frame-from."
            )
        elif request.image is None and not request.text:
            raise InputError("--first-frame-from draws what --text says, and there is no text; give one.")
        if request.last_image is not None and config.first_frame_concat != "ends":
            raise InputError(f"{name} has no place for a last frame; leave --last-image out.")

    def _sizes(self, request: Request) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the clip and of the file."""
        defaults, size = self.bundle.defaults, None
        if request.size is not None:
            width, height = parse_size(request.size)
            size = (height, width)
        if self.upscaler is None and size is not None:
            for name, side in (("height", size[0]), ("width", size[1])):
                given = getattr(request, name)
                if given not in (None, side):
                    raise InputError(f"size {request.size} and {name} {given} differ; give one of them.")
            clip = size
        else:
            height = defaults.height if request.height is None else request.height
            width = defaults.width if request.width is None else request.width
            clip = (height, width)
        if self.upscaler is None:
            target = (clip[0] * request.scale, clip[1] * request.scale)
        else:
            if request.scale > 1:
                raise InputError("scale enlarges pixels as they are, and --upscale by a network; give one of the two.")
            factor = self.upscaler.scale
            target = size or (clip[0] * factor, clip[1] * factor)
            if any(side < 2 or side % 2 for side in target):
                raise InputError(f"size is {target[1]}x{target[0]}; expected even numbers above 0, as H.264 does.")
            check_target(factor, *clip, *target)
        if max(target) > LARGEST:
            raise InputError(f"{target[1]}x{target[0]} is more than H.264 holds; stay within {LARGEST} pixels a side.")
        return clip, target

    def _defaults(self, request: Request, frames: int, size: tuple[int, int]) -> Request:
        bundle = self.bundle
        given: dict[str, Any] = {"frames": frames, "height": size[0], "width": size[1]}
        for name in ("guidance_scale", "sampler"):
            value = getattr(request, name)
            given[name] = getattr(bundle.defaults, name) if value is None else value
        if request.guidance_rescale is None:
            given["guidance_rescale"] = bundle.schedule.guidance_rescale
        length, overlap = seen_at_once(bundle, request.settings, frames)
        given["context_length"] = length
        if length < frames:
            given["context_overlap"] = overlap
        return replace(request, **given)

    def _drawn(self, painter: TextToImage, request: Request, out: Path) -> tuple[Request, Drawing]:
        if request.first_frame_size is None:
            height, width = painter.size
        else:
            width, height = parse_size(request.first_frame_size, "first_frame_size")
        if height % painter.unit or width % painter.unit or min(height, width) < painter.unit:
            raise InputError(
                f"the first frame would be drawn at {width}x{height}; {painter.name} draws multiples of {painter.unit}."
            )
        steps = painter.steps if request.first_frame_steps is None else request.first_frame_steps
        scale = request.first_frame_guidance_scale
        scale = painter.guidance_scale if scale is None else scale
        seed = request.seed if request.first_frame_seed is None else request.first_frame_seed
        request = replace(
            request,
            first_frame_size=f"{width}x{height}",
            first_frame_steps=steps,
            first_frame_guidance_scale=scale,
            first_frame_seed=seed,
        )
        return request, Drawing(out, (height, width), seed, steps, scale, self._drawn_record(request))

    def _drawn_record(self, request: Request) -> dict:
        """All that is needed to draw the picture again."""
        from ... import __version__

        own = {k: v for k, v in asdict(request).items() if k.startswith("first_frame")}
        named = {k: v for k, v in self.networks.record().items() if k.startswith("first_frame")}
        return {"dreamfactory": __version__, **named, **self.numbers, "text": request.text, **own}

    def _record(self, request: Request, target: tuple[int, int]) -> dict:
        """All that is needed to make the clip again, for the file's metadata."""
        from ... import __version__

        asked = {k: v for k, v in asdict(request).items() if k not in ("out", "size", "scale")}
        if self.painter is None or request.image is not None:
            asked = {k: v for k, v in asked.items() if not k.startswith("first_frame")}
        size = {"size": f"{target[1]}x{target[0]}"}
        for name in ("image", "last_image"):
            if getattr(request, name) is not None:
                size[f"{name}_fingerprint"] = fingerprint(getattr(request, name))
        return {"dreamfactory": __version__, **self.networks.record(), **self.numbers, **asked, **size}

    def _notes_on_drawing(self, requests: Sequence[Request]) -> list[str]:
        if self.painter is None:
            return []
        notes, ignores = [], self.painter.ignores
        negative = [r for r in requests if r.first_frame_negative]
        if "negative" in ignores and negative:
            notes.append(f"{ignores['negative']}; --first-frame-negative does nothing.")
        elif "guidance_scale" not in ignores and any((r.first_frame_guidance_scale or 0) <= 1 for r in negative):
            notes.append("with guidance scale 1 nothing is guided; --first-frame-negative does nothing.")
        scales = {r.first_frame_guidance_scale for r in requests} - {self.painter.guidance_scale}
        if "guidance_scale" in ignores and scales:
            notes.append(f"{ignores['guidance_scale']}; --first-frame-guidance-scale does nothing.")
        told = [caption for r in requests for caption in (r.text, r.first_frame_negative)]
        return notes + _cut(f"the text encoder of {self.painter.name}", self.painter.is_cut, told)

    def notes(self, requests: Sequence[Request]) -> list[str]:
        """What was asked for and will not be seen, once for all of them."""
        config, bundle, notes = self.bundle.unet.config, self.bundle, []
        if bundle.unet.report is not None:
            notes.append(f"converted in memory (`dreamfactory convert` does it once and for all): {bundle.unet.report}")
        notes += [] if self.painter is None else self.painter.notes
        notes += self._notes_on_length(requests)
        if config.frame_rate_embedding == "off" and any(r.frame_rate is not None for r in requests):
            notes.append("this network has no frame-rate condition; --frame-rate does nothing.")
        if any((r.negative or r.negative_motion) and r.guidance_scale == 1 for r in requests):
            notes.append("with guidance scale 1 nothing is guided; --negative does nothing.")
        if any(r.guidance_rescale and r.guidance_scale == 1 for r in requests):
            notes.append("with guidance scale 1 nothing is guided; --guidance-rescale does nothing.")
        notes += self._notes_on_drawing([r for r in requests if r.image is None])
        parts = {
            "image_strength": config.image_adapter,
            "paca_strength": config.paca,
            "swap_strength": config.swap_attention,
        }
        for name, part in parts.items():
            if part in (False, "off") and any(getattr(r, name) != 1 for r in requests):
                notes.append(f"this network has nothing that --{name.replace('_', '-')} is of; it does nothing.")
        if config.motion_text != "off" and bundle.motion is not None and not all(r.motion for r in requests):
            notes.append("this network reads what happens from --motion, which is empty.")
        if self.networks.motion_encoder is not None and config.motion_text == "off":
            notes.append("this network reads no motion text; --motion-encoder does nothing.")
        if self.networks.image_encoder is not None and config.image_adapter == "off":
            notes.append("this network has no image adapter; --image-encoder does nothing.")
        if any(r.eta and r.sampler != "ddim" for r in requests):
            notes.append("eta is of the sampler ddim; it does nothing here.")
        for name, (encoder, captions) in self._captions(requests).items():
            notes += _cut(f"the {name} encoder of {bundle.name}", encoder.is_cut, captions)
            words = " ".join(dict.fromkeys(word for caption in captions for word in WORD.findall(caption)))
            unknown = encoder.unknown_words(words)
            if unknown:
                told = ", ".join(map(repr, unknown[:SHOWN])) + (
                    f" and {len(unknown) - SHOWN} more words" if len(unknown) > SHOWN else ""
                )
                notes.append(f"the {name} encoder of {bundle.name} does not know {told}; it reads on without.")
        return notes

    def _notes_on_length(self, requests: Sequence[Request]) -> list[str]:
        """Clips of other lengths than the network was trained with."""
        bundle, notes = self.bundle, []
        trained = stated_length(bundle.unet.config, bundle.schedule.trained_shape)
        for frames, length, overlap in dict.fromkeys((r.frames, r.context_length, r.context_overlap) for r in requests):
            if frames is None or length is None:  # not resolved
                continue
            if frames > length and overlap is not None:
                plan = pieces(frames, length, overlap, bundle.unet.config.first_frame_reach)
                notes.append(
                    f"{frames} frames are made in {len(plan)} pieces of {length}, each going on from the last "
                    f"{overlap} of the clip (--context-length, --context-overlap)."
                )
            elif overlap is not None:
                notes.append(f"the network sees all {frames} frames at once; --context-overlap does nothing.")
            seen = min(frames, length)
            if trained is not None and is_far(seen, trained):
                remedy = f"clips of about {trained} look best"
                if seen > trained and animates_picture(bundle.unet.config):
                    remedy = f"pieces of about {trained} look best (--context-length)"
                notes.append(f"this network was trained with {trained} frames and sees {seen} at once; {remedy}.")
        return notes

    def _captions(self, requests: Sequence[Request]) -> dict[str, tuple[TextEncoder, list[str]]]:
        """What each text encoder is given."""
        seen = [pair for r in requests for pair in ((r.text, r.motion), (r.negative, r.negative_motion))]
        if self.bundle.motion is None or self.bundle.unet.config.motion_text == "off":
            return {"text": (self.bundle.text, [one_caption(*pair) for pair in seen])}
        text, motion = zip(*seen, strict=True)
        return {"text": (self.bundle.text, list(text)), "motion": (self.bundle.motion, list(motion))}


def _cut(reader: str, is_cut: Callable[[str], bool], captions: Sequence[str]) -> list[str]:
    """A note on captions of which the end is not read."""
    cut = [caption for caption in dict.fromkeys(captions) if is_cut(caption)]
    if not cut:
        return []
    others = "" if len(cut) == 1 else f" and of {len(cut) - 1} more"
    return [f"{reader} does not read to the end of {cut[0][:40]!r}…{others}; what matters should come first."]
