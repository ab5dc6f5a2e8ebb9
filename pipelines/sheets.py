"""Contact sheets: clips as rows of frames with their captions, to be looked at in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..model_patches.errors import reason
from ..model_patches.files import whole
from .errors import InputError

WIDEST = 600  # pixels of a caption over frames that are narrower together
INK, PAPER, FAINT = (28, 30, 34), (250, 249, 246), (120, 122, 126)


def clip_sheet(
    path: str | Path,
    clips: Tensor,
    captions: Sequence[str],
    *,
    title: str = "",
    tile: int = 96,
    columns: int = 8,
) -> None:
    """One row a clip: its caption, then evenly spaced frames. clips: (b, t, 3, h, w) in [0, 1].

    Written whole or not at all.
    """
    b, t, _, h, w = clips.shape
    picks = np.unique(np.linspace(0, t - 1, min(columns, t)).round().astype(int))
    scale = max(1, round(tile / h)) if h <= tile else tile / h
    th, tw = round(h * scale), round(w * scale)
    gap, margin, label, head = 4, 16, 20, 34 if title else 0
    captions = [_cut(caption, max(WIDEST, len(picks) * (tw + gap))) for caption in captions]
    texts = max(font(13).getlength(c) for c in captions), font(18).getlength(title)
    width = margin * 2 + max(len(picks) * (tw + gap) - gap, *(round(t) + 1 for t in texts))
    height = margin * 2 + head + b * (th + label + gap * 2)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin - 2), title, INK, font=font(18))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    for row in range(b):
        y = margin + head + row * (th + label + gap * 2)
        draw.text((margin, y), captions[row], INK, font=font(13))
        for column, frame in enumerate(picks):
            image = Image.fromarray(to_uint8(clips[row, frame])).resize((tw, th), resample)
            sheet.paste(image, (margin + column * (tw + gap), y + label))
    save_image(sheet, path)


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, h, w) in [0, 1] -> (h, w, 3) bytes."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def save_image(image: Image.Image, path: str | Path, **options) -> None:
    """Through a temporary file and one rename. Raises InputError where that cannot be."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            image.save(temporary, format=path.suffix.lstrip(".").upper(), **options)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}; choose another place.") from error


def _cut(caption: str, width: int) -> str:
    """On one line, and no longer than that."""
    caption = " ".join(caption.split())[:width]  # no letter is narrower than a pixel
    if font(13).getlength(caption) <= width:
        return caption
    while caption and font(13).getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"


def font(size: int):
    return ImageFont.load_default(size)
