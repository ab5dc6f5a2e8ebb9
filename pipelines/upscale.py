"""`dreamfactory upscale`: a video, or a picture, larger by an image upscaler, frame by frame."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..files import no_file, refuse_onto
from ..model_patches.upscaling.enlarge import Enlarger, check_tile
from ..model_patches.upscaling.sizes import check_target, resize_cover_crop
from ..model_patches.upscaling.upscaler import Upscaler, check_dtype, load_upscaler
from .bundle import DEMO
from .media.files import check_output, check_picture, read_image
from .media.sheets import save_image, to_uint8
from .media.transcode import Shown, note, rewrite, survey

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SHIPPED = {  # with the pack: for the tiny world of the demo, and for real video
    "demo": DEMO / "upscaler.safetensors",
    "footage": Path(__file__).parent / "footage" / "upscaler.safetensors",
}
LARGEST = 16384  # pixels a side that libx264 takes
LOOK_AHEAD = 60  # frames that H.264 holds


def upscale_video(
    source: str | Path,
    target: str | Path,
    model: str | Path,
    *,
    size: tuple[int, int] | None = None,
    scale: int | None = None,
    tile: int | None = None,
    chunk: int = 4,
    crf: int = 16,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quiet: bool = False,
) -> Path:
    """Write the target, an mp4, or a .png where the source is a picture; returns its path.

    model: see open_upscaler. size: (width, height) of the target; None: what the model makes. scale: what the model
    has to be. tile: see Enlarger. chunk: frames in memory. crf: 0 (lossless) to 51. What a user can get wrong is
    checked first, before weights are read. Raises InputError, CheckpointError, ConfigError.
    """
    source, target = Path(source), Path(target)
    is_picture = source.suffix.lower() in PICTURES
    if (told := no_file(source)) is not None:
        raise InputError(f"{told}; give a video or a picture.")
    check_output(target, ".png" if is_picture else ".mp4")
    refuse_onto(target, source, model)
    _check_numbers(size, scale, chunk, crf, even=not is_picture)
    check_tile(tile)
    shown = _survey_picture(source) if is_picture else survey(source)

    upscaler = open_upscaler(model)
    if scale not in (None, upscaler.scale):
        raise InputError(f"{upscaler.name} enlarges x{upscaler.scale}; --scale asks for a x{scale} model: give one.")
    check_dtype(upscaler, dtype)
    width, height = size or (upscaler.scale * shown.width, upscaler.scale * shown.height)
    check_target(upscaler.scale, shown.height, shown.width, height, width)
    enlarger = Enlarger(upscaler, device, dtype, tile=tile, say=note)

    if is_picture:
        picture = resize_cover_crop(enlarger(read_image(source, shown.height, shown.width)), height, width)
        save_image(Image.fromarray(to_uint8(picture[0])), target)
        return target
    width, height = width // 2 * 2, height // 2 * 2  # H.264's chroma has half as many
    if max(width, height) > LARGEST:
        raise InputError(f"{width}x{height} is more than H.264 holds; choose a size of up to {LARGEST} pixels a side.")
    if not quiet:
        _say_sizes(shown, width, height, upscaler.scale, chunk)
    with tqdm(total=shown.frames, desc="upscaling", unit="frame", disable=quiet) as bar:

        def enlarge(frames: Tensor) -> Tensor:
            enlarged = _sized(enlarger(frames), height, width)
            bar.update(len(frames))
            return enlarged

        rewrite(source, target, shown, (width, height), enlarge, chunk=chunk, crf=crf)
    return target


def open_upscaler(model: str | Path) -> Upscaler:
    """One of those that come with the pack, by its name, or an upscaler's file."""
    return load_upscaler(SHIPPED.get(str(model), model))


def parse_size(text: str, what: str = "size") -> tuple[int, int]:
    """ "1376x768" -> (1376, 768): width, height."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip().lower())
    if match is None:
        raise InputError(f"{what} is {text!r}; write width x height in pixels, such as 1376x768.")
    return int(match[1]), int(match[2])


def _check_numbers(size: tuple[int, int] | None, scale: int | None, chunk: int, crf: int, even: bool) -> None:
    step = 2 if even else 1
    if size is not None and any(side < 1 or side % step for side in size):
        raise InputError(f"size is {size[0]}x{size[1]}; expected {'even numbers' if even else 'numbers'} above 0.")
    if scale is not None and scale < 2:
        raise InputError(f"scale is {scale}; expected 2 or more.")
    if not 1 <= chunk <= 1024:
        raise InputError(f"frames at once is {chunk}; expected 1 to 1024.")
    if not 0 <= crf <= 51:
        raise InputError(f"crf is {crf}; expected 0 (lossless) to 51 (smallest file).")


def _survey_picture(path: Path) -> Shown:
    check_picture(path)
    with Image.open(path) as file:
        if getattr(file, "n_frames", 1) > 1:
            note(f"{path.name} moves; its first picture alone is enlarged. Save it as a video to keep the others.")
        return Shown(*ImageOps.exif_transpose(file).size, 1)


def _say_sizes(shown: Shown, width: int, height: int, scale: int, chunk: int) -> None:
    """What is about to happen. The memory is that of frames; a network's own depends on which it is."""
    small, enlarged, fitted = shown.width * shown.height, scale**2 * shown.width * shown.height, width * height
    held = chunk * 3 * 4 * (2 * small + enlarged + fitted) + LOOK_AHEAD * 3 // 2 * fitted
    count = "frames" if shown.frames is None else "1 frame" if shown.frames == 1 else f"{shown.frames} frames"
    print(
        f"{shown.width}x{shown.height} -> {width}x{height}, {count}, model x{scale}, "
        f"about {max(1, held // 2**20)} MB beside the network",
        file=sys.stderr,
    )


def _sized(frames: Tensor, height: int, width: int) -> Tensor:
    """One row or column too many is cut off; any other size is fitted."""
    h, w = frames.shape[-2:]
    if h - height in (0, 1) and w - width in (0, 1):
        return frames[..., :height, :width]
    return resize_cover_crop(frames, height, width)
