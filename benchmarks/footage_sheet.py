"""A picture of upscalers at work on real clips: a part of a frame, and under it one row of its pixels over time.

What stands still makes vertical lines in the lower picture, what moves slanting ones; what shimmers breaks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from dreamfactory.pipelines.media.sheets import INK, PAPER, font, to_uint8
from dreamfactory.training.super_resolution.compare import made_small

SIDE, THICK, GAP, HEAD = 192, 3, 6, 22  # pixels: a part, a frame's row over time, between pictures, for a title
# Of whose clips: which one, left and top of the part, and the row below its top. Clips whose maker does not say that
# they may be shown are not.
SHOWN = {"film (Big Buck Bunny)": (1, 250, 120, 120), "time lapse (city)": (0, 330, 100, 96)}

Way = Callable[[Tensor], Tensor]


def draw(path: Path, clips: Mapping[str, list[Tensor]], ways: Mapping[str, Way], damages: Mapping[str, Way]) -> None:
    """clips: (t, 3, h, w), the truth, by whose they are."""
    rows = [(group, damage) for group in SHOWN if group in clips for damage in damages]
    columns = ("input", *ways, "truth")
    frames = max(len(clip) for group in clips.values() for clip in group)
    height = HEAD + SIDE + GAP + THICK * frames + GAP
    sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, HEAD + height * len(rows)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns):
        pen.text((GAP + i * (SIDE + GAP), 3), name, INK, font=font(13))
    for k, (group, damage) in enumerate(rows):
        number, left, top, line = SHOWN[group]
        truth = clips[group][number]
        small = damages[damage](made_small(truth, 4, None))
        shown = {"input": small.repeat_interleave(4, -1).repeat_interleave(4, -2), "truth": truth}
        begin = HEAD + k * height
        pen.text((GAP, begin + 3), f"{group}: {damage}", INK, font=font(13))
        for i, name in enumerate(columns):
            clip = shown[name] if name in shown else ways[name](small)
            part = clip[..., top : top + SIDE, left : left + SIDE]
            over_time = part[:, :, line].permute(1, 0, 2).repeat_interleave(THICK, 1)
            place = GAP + i * (SIDE + GAP), begin + HEAD
            sheet.paste(Image.fromarray(to_uint8(part[0])), place)
            sheet.paste(Image.fromarray(to_uint8(over_time)), (place[0], place[1] + SIDE + GAP))
    sheet.save(path, quality=88)
