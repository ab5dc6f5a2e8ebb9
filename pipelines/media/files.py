"""Pictures in, clips out: PIL and PyAV, whole files or none."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ...errors import InputError, reason
from ...files import MAX_SETTINGS, no_file, parse, whole
from .sheets import to_uint8
from .stills import on_white


def _open(path: str | Path) -> Image.Image:
    """A decoded picture, or one sentence why not."""
    path = Path(path)
    if (told := no_file(path)) is not None:
        raise InputError(f"{told}; give a PNG, JPEG or WebP file.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # still larger ones are refused
        return _decoded(path)


def _decoded(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no picture; give a PNG, JPEG or WebP file.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large to open safely; scale it down first.") from error
    except (OSError, ValueError, SyntaxError) as error:
        if getattr(error, "errno", None) is not None:  # the system's own
            raise InputError(f"{path} cannot be read: {reason(error)}.") from error
        raise InputError(f"{path} is cut short or damaged ({reason(error)}); save it again.") from error


def check_picture(path: str | Path) -> None:
    """Refuse what is no readable picture; called before any weights are read."""
    _open(path)


def read_image(path: str | Path, height: int, width: int) -> Tensor:
    """A picture as (1, 3, height, width) in [0, 1], scaled to cover that size and cropped at its centre.

    Rotated as its EXIF says; transparency lies on white; 16-bit grey keeps its tones. Raises InputError.
    """
    image = _open(path)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype("uint8"))
    if image.has_transparency_data:
        image = on_white(image.convert("RGBA"))
    # Not as frames of videos are (`resize_cover_crop`): pictures may be as large as a disk has room for, and Pillow
    # crops them before it scales, in bytes.
    image = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, height, width, 3).permute(0, 3, 1, 2).float() / 255


def check_output(path: str | Path, suffix: str = ".mp4") -> Path:
    """A place a file can be written to, or one sentence why not; called before any work is done."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"the output {path} must end in {suffix}.")
    above = (path.parent, *path.parent.parents)
    new = [folder for folder in above if not folder.exists()]
    there = next(folder for folder in above if folder.exists())
    if not there.is_dir():
        raise InputError(f"{path} cannot be written: {no_file(there, or_folder=True) or f'{there} is a file'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # and no other error, such as too long a name
            path.lstat()
        tempfile.TemporaryFile(dir=path.parent).close()
        for folder in new:  # made again when there is something to put there
            folder.rmdir()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another place.") from error
    if path.exists() and (told := no_file(path)) is not None:
        raise InputError(f"the output {told}; give a file name.")
    return path


def write_video(
    path: str | Path,
    clip: Tensor | Iterable[Tensor],
    fps: float = 8,
    *,
    settings: Mapping | None = None,
    scale: int = 1,
) -> None:
    """A clip (t, 3, h, w) in [0, 1], or one in pieces of some frames, as H.264 mp4; its settings as JSON in `comment`.

    scale: whole-number enlargement with hard pixel edges. Odd sides lose their last row or column (H.264's chroma).
    """
    import av

    from .frames import as_bt709, to_yuv

    path = Path(path)
    options = {"movflags": "use_metadata_tags+faststart"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as out:
            if settings is not None:
                out.metadata["title"] = "DreamFactory"
                out.metadata["comment"] = json.dumps(dict(settings))
            stream = None
            for frames in [clip] if isinstance(clip, Tensor) else clip:
                if scale > 1:
                    frames = F.interpolate(frames, scale_factor=scale, mode="nearest")
                height, width = frames.shape[-2] // 2 * 2, frames.shape[-1] // 2 * 2
                if stream is None:
                    stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    # x264's macroblock tree, in its assembly, gives the same frames other bytes now and then.
                    stream.options = {"crf": "12", "x264-params": "mbtree=0"}
                    as_bt709(stream.codec_context)
                for image in frames[..., :height, :width]:
                    out.mux(stream.encode(to_yuv(to_uint8(image))))
            if stream is None:
                raise ValueError("a clip of no frames cannot be written.")
            out.mux(stream.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_settings(path: str | Path) -> dict:
    """The settings that `write_video` stored; {} of a file that has none, or is no video."""
    import av
    import av.error

    try:
        with av.open(str(path)) as file:
            return kept_settings(file.metadata.get("comment"))
    except (av.error.FFmpegError, OSError, ValueError):
        return {}


def is_whole(path: str | Path) -> bool:
    """Whether an mp4 has all the bytes that its boxes state: a copy may have been cut short."""
    size, at = Path(path).stat().st_size, 0
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # of 64 bits, after the box's name
                length = int.from_bytes(head[8:16], "big")
            if len(head) < 8 or length < 8:
                return False
            at += length
    return at == size > 0


def kept_settings(text: object) -> dict:
    """What a file of ours keeps as JSON of how it was made; {} of any other text."""
    try:
        settings = parse(text.encode(), MAX_SETTINGS) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def write_gif(path: str | Path, clip: Tensor, fps: float = 8, *, scale: int = 1) -> None:
    """A looping GIF of (t, 3, h, w) in [0, 1], for documents."""
    from .sheets import save_image

    if scale > 1:
        clip = F.interpolate(clip, scale_factor=scale, mode="nearest")
    images = [Image.fromarray(to_uint8(image)) for image in clip]
    palette = images[0].quantize(colors=255, method=Image.Quantize.MEDIANCUT)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    save_image(frames[0], path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
