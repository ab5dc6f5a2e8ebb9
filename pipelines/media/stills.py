"""Images from bytes, as they are shown: turned as their EXIF says, on white where they can be seen through."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # EXIF; from 5 on width and height change places


class SeveralPictures(ValueError):
    """A file that holds more than one: an animation, or pages."""


def shown_size(data: bytes) -> tuple[int, int]:
    """Width and height. Raises SeveralPictures."""
    with Image.open(io.BytesIO(data)) as image:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":  # a photograph with a preview, or its depth, behind it
            raise SeveralPictures(
                f"several pictures in one file: {count} of them; save them as a video or GIF, or one by one"
            )
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (height, width) if turned else (width, height)


def pixels(data: bytes) -> np.ndarray:
    """(h, w, 3) uint8."""
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file)
        image.load()
    if image.mode.startswith("I"):  # 16-bit grey keeps its tones
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype("uint8"))
    return np.array(on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB"))


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB, without its transparency."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
