"""Contact sheets: clips as rows of frames with their captions, to be looked at in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...errors import InputError, reason
from ...files import whole
from ...model_patches.upscaling.sizes import bicubic

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
    comparison_sheet(path, [[spaced(clip, columns)] for clip in clips], captions, title=title, tile=tile)


def spaced(clip: Tensor, count: int) -> Tensor:
    """At most so many frames of (t, 3, h, w), the first and the last among them."""
    return clip[np.unique(np.linspace(0, len(clip) - 1, min(count, len(clip))).round().astype(int))]


def comparison_sheet(
    path: str | Path,
    rows: Sequence[Sequence[Tensor | None]],
    captions: Sequence[str],
    *,
    heads: Sequence[str] = (),
    title: str = "",
    tile: int = 96,
) -> None:
    """One row a clip: its caption, then groups of frames (t, 3, h, w) in [0, 1] side by side, under their heads.

    tile: about how many pixels a frame is high. None leaves a group's place empty. Written whole or not at all.
    """
    gap, apart, margin, label = 4, 16, 16, 20
    head = (34 if title else 0) + (label if heads else 0)
    sizes = [_shown(next(group for group in row if group is not None), tile) for row in rows]
    columns = [[row[k] for row in rows] for k in range(len(rows[0]))]
    counts = [max(0 if group is None else len(group) for group in column) for column in columns]
    widest = max(width for width, _, _ in sizes)
    starts = np.cumsum([0, *(count * (widest + gap) + apart for count in counts)])
    across = int(starts[-1]) - apart - gap
    captions = [_cut(caption, max(WIDEST, across)) for caption in captions]
    texts = max(font(13).getlength(c) for c in captions), font(18).getlength(title)
    width = margin * 2 + max(across, *(round(t) + 1 for t in texts))
    height = margin * 2 + head + sum(high + label + gap * 2 for _, high, _ in sizes)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin - 2), title, INK, font=font(18))
    for start, name in zip(starts, heads, strict=False):
        draw.text((margin + int(start), margin + head - label), name, FAINT, font=font(13))
    y = margin + head
    for row, caption, (wide, high, resample) in zip(rows, captions, sizes, strict=True):
        draw.text((margin, y), caption, INK, font=font(13))
        for start, group in zip(starts, row, strict=False):
            for column, frame in enumerate(() if group is None else group):
                image = Image.fromarray(to_uint8(frame)).resize((wide, high), resample)
                sheet.paste(image, (margin + int(start) + column * (wide + gap), y + label))
        y += high + label + gap * 2
    save_image(sheet, path)


def _shown(frames: Tensor, tile: int) -> tuple[int, int, Image.Resampling]:
    """Width and height of a frame on a sheet, and how it comes to them: small ones in whole pixels."""
    h, w = frames.shape[-2:]
    scale = max(1, round(tile / h)) if h <= tile else tile / h
    return round(w * scale), round(h * scale), Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX


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


def video_grid(clips: Tensor, columns: int = 4) -> Tensor:
    """(n, t, 3, h, w) -> one clip (t, 3, rows*h, columns*w) of all of them side by side."""
    n, t, c, h, w = clips.shape
    rows = -(-n // columns)
    grid = torch.ones(rows * columns, t, c, h, w)
    grid[:n] = clips
    grid = grid.unflatten(0, (rows, columns))
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(t, c, rows * h, columns * w)


def middle(clip: Tensor, side: int) -> Tensor:
    """The middle of (t, 3, h, w), sides at most `side` and multiples of 8."""
    height, width = (min(side, n) // 8 * 8 for n in clip.shape[-2:])
    top, left = (clip.shape[-2] - height) // 2, (clip.shape[-1] - width) // 2
    return clip[..., top : top + height, left : left + width]


def comparison(path: Path, rows: Sequence[tuple[Tensor, ...]], scale: int, title: str, tile: int = 256) -> None:
    """Middle squares, pixel for pixel, as a PNG: input (3, h, w), bicubic, ours (3, s*h, s*w), truth if there is one.

    rows: of (input, ours) or (input, ours, truth).
    """
    names = ("input", "bicubic", "ours", "truth")[: len(rows[0]) + 1]
    gap, head = 6, 44
    sheet = Image.new("RGB", (len(names) * (tile + gap) + gap, head + len(rows) * (tile + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 4), title, INK, font=font(15))
    for i, name in enumerate(names):
        draw.text((gap + i * (tile + gap), 24), name, INK, font=font(13))
    for row, (small, *large) in enumerate(rows):
        pixels = small.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        for i, image in enumerate((pixels, bicubic(small[None], scale)[0], *large)):
            place = (gap + i * (tile + gap), head + row * (tile + gap))
            sheet.paste(Image.fromarray(to_uint8(middle(image[None], tile)[0])), place)
    save_image(sheet, path)
