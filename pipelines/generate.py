"""`dreamfactory generate`: one picture and two captions in, one mp4 and its contact sheet out."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from .bundle import Bundle, load_bundle
from .image_to_video import Settings, animate, check_request
from .sheets import clip_sheet
from .video_files import check_output, read_image, write_video


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
    """Write the clip; returns its path. Everything a user can get wrong is checked before the first step.

    parts: vae, text_encoder, motion_encoder, image_encoder, attention of `load_bundle`.
    """
    out = check_output(request.out)
    bundle = load_bundle(checkpoint, **parts)
    defaults = bundle.defaults
    height, width = request.height or defaults.height, request.width or defaults.width
    frames = defaults.frames if settings.frames is None else settings.frames
    steps = defaults.steps if settings.steps is None else settings.steps
    check_request(bundle, frames, height, width, steps, settings)
    image = read_image(request.image, height, width)
    last = read_image(request.last_image, height, width) if request.last_image else None
    _warn_of_unknown_words(bundle, request)

    with tqdm(total=steps, desc="denoising", disable=quiet) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        clip = animate(bundle, image, [request.text], [request.motion], settings, last_images=last, on_step=on_step)[0]
    record = {
        "checkpoint": checkpoint,
        **{k: v for k, v in asdict(request).items() if k not in ("out", "scale")},
        **asdict(settings),
        "frames": frames,
        "steps": steps,
        "height": height,
        "width": width,
    }
    write_video(out, clip, request.fps or defaults.fps, settings=record, scale=request.scale)
    caption = request.motion or request.text or "no caption"
    clip_sheet(out.with_name(f"{out.stem}_sheet.png"), clip[None], [caption], tile=128)
    return out


def _warn_of_unknown_words(bundle: Bundle, request: Request) -> None:
    for encoder, caption, name in ((bundle.text, request.text, "text"), (bundle.motion, request.motion, "motion")):
        unknown = encoder.unknown_words(caption) if encoder is not None else []
        if unknown:
            print(
                f"note: the {name} encoder of {bundle.name} does not know {', '.join(map(repr, unknown))}; "
                "it reads on without.",
                file=sys.stderr,
            )
