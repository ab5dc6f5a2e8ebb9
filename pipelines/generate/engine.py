"""`dreamfactory generate`: one picture and two captions in, one mp4 and its contact sheet out."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from .bundle import Bundle, load_bundle
from .errors import InputError
from .image_to_video import Settings, animate, check_settings, check_size
from .sheets import clip_sheet
from .video_files import check_output, check_picture, read_image, write_video


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    image: str
    out: str
    text: str = ""
    motion: str = ""
    last_image: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    scale: int = 1


def generate(request: Request, settings: Settings, *, checkpoint: str = "demo", quiet: bool = False, **parts) -> Path:
    """Write the clip; returns its path. What a user can get wrong is checked first, before weights are read.

    parts: vae, text_encoder, motion_encoder, image_encoder, text_layer, attention, device, dtype of `load_bundle`.
    """
    check_settings(settings)
    if request.fps is not None and not 0.1 <= request.fps <= 240:
        raise InputError(f"fps is {request.fps}; expected 0.1 to 240.")
    pictures = [request.image, request.last_image] if request.last_image else [request.image]
    for picture in pictures:
        check_picture(picture)
    out = check_output(request.out)
    sheet = check_output(out.with_name(f"{out.stem}_sheet.png"), ".png")

    bundle = load_bundle(checkpoint, **parts)
    settings, size, fps = _resolve(request, settings, bundle)
    check_size(bundle, settings.frames, *size)
    images = [read_image(picture, *size) for picture in pictures]
    _notes(bundle, request, settings)

    with tqdm(total=settings.steps, desc="denoising", disable=quiet) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        last = images[1] if len(images) > 1 else None
        clip = animate(
            bundle, images[0], [request.text], [request.motion], settings, last_images=last, on_step=on_step
        )[0]
    write_video(out, clip, fps, settings=_record(request, settings, size, fps, checkpoint, parts), scale=request.scale)
    caption = request.motion or request.text or "no caption"
    clip_sheet(sheet, clip[None], [caption], tile=128)
    return out


def _resolve(request: Request, settings: Settings, bundle: Bundle) -> tuple[Settings, tuple[int, int], float]:
    """Every default in its place: settings, (height, width), fps."""
    given, defaults = asdict(settings), bundle.defaults
    for name in ("frames", "steps", "guidance_scale", "sampler"):
        given[name] = getattr(defaults, name) if given[name] is None else given[name]
    if given["guidance_rescale"] is None:
        given["guidance_rescale"] = bundle.schedule.guidance_rescale
    height = defaults.height if request.height is None else request.height
    width = defaults.width if request.width is None else request.width
    fps = defaults.fps if request.fps is None else request.fps
    return replace(settings, **given), (height, width), fps


def _record(request, settings, size, fps, checkpoint, parts) -> dict:
    """All that is needed to make the clip again, for the file's metadata."""
    from .. import __version__

    asked = {k: v for k, v in asdict(request).items() if k not in ("out", "scale")}
    named = {k: str(v) for k, v in parts.items() if v is not None}
    asked |= {"height": size[0], "width": size[1], "fps": fps}
    return {"dreamfactory": __version__, "checkpoint": checkpoint, **named, **asked, **asdict(settings)}


def _notes(bundle: Bundle, request: Request, settings: Settings) -> None:
    """What was asked for and will not be seen, on standard error."""
    config, notes = bundle.unet.config, []
    if bundle.unet.report is not None:
        notes.append(f"converted in memory (`dreamfactory convert` does it once and for all): {bundle.unet.report}")
    if config.first_frame_concat == "off" and not config.paca and config.image_adapter == "off":
        notes.append("this network makes video from text alone; the picture is not looked at.")
    if request.last_image and config.first_frame_concat != "ends":
        notes.append("this network has no place for a last frame; --last-image is not looked at.")
    if settings.frame_rate is not None and config.frame_rate_embedding == "off":
        notes.append("this network has no frame-rate condition; --frame-rate does nothing.")
    for encoder, caption, name in ((bundle.text, request.text, "text"), (bundle.motion, request.motion, "motion")):
        unknown = encoder.unknown_words(caption) if encoder is not None else []
        if unknown:
            words = ", ".join(map(repr, unknown))
            notes.append(f"the {name} encoder of {bundle.name} does not know {words}; it reads on without.")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
