"""Logos, watermarks and words, as pictures to lie over frames: (h, w, 4) bytes, colours multiplied by what covers."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .reel import Box
from .texture import Array, palette, thing

WORDS = (
    "the a river old house we never knew morning light through every window and then they found it again under snow "
    "before nobody told me where are you going tonight listen carefully this is only our beginning of summer seven "
    "hundred people waited at station road north wind blows cold over mountains"
)
CYRILLIC = "мы никогда не знали где кончается дорога и почему утром снова идёт снег над старым городом"
GREEK = "κανείς δεν ήξερε πού τελειώνει ο δρόμος και γιατί το πρωί χιονίζει πάλι πάνω από την πόλη"
NAMES = ("KANAL 7", "NORTH TV", "FILMED", "STOCKCLIP", "VIDEA", "PREVIEW", "demo.net", "Lumen")
TITLES = ("CHAPTER ONE", "Two years later", "THE LONG WAY HOME", "Interview with a painter", "Part III: Winter")
STYLES = ("outlined", "yellow", "boxed", "plain")


def font(size: int, latin: bool = True) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """None: no font with other letters is at hand. matplotlib brings one."""
    if latin:
        return ImageFont.load_default(size)
    found = importlib.util.find_spec("matplotlib")
    folder = found and found.submodule_search_locations
    path = Path(folder[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if folder else None
    return ImageFont.truetype(str(path), size) if path is not None and path.is_file() else None


def multiplied(image: Image.Image, strength: float = 1.0) -> Array:
    """RGBA as Pillow has it."""
    pixels = np.asarray(image.convert("RGBA"), np.float32)
    cover = pixels[..., 3:] / 255 * strength
    return (np.concatenate([pixels[..., :3] * cover, 255 * cover], 2) + 0.5).astype(np.uint8)


def box_of(layer: Array, within: tuple[int, int, int, int] | None = None) -> Box:
    """Around what a layer covers, within rows and columns from, to."""
    top, bottom, left, right = within or (0, layer.shape[0], 0, layer.shape[1])
    rows, columns = np.nonzero(layer[top:bottom, left:right, 3])
    if not len(rows):
        return Box(left, top, 0, 0)
    return Box(int(left + columns.min()), int(top + rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)


# -- words -----------------------------------------------------------------------------------------------------------


def sentence(rng: np.random.Generator, words: str = WORDS, least: int = 3, most: int = 7) -> str:
    told = " ".join(rng.choice(words.split(), int(rng.integers(least, most + 1))))
    return told[0].upper() + told[1:] + str(rng.choice([".", "?", "!", "…"]))


def written(
    text: str, size: tuple[int, int], high: float, middle: tuple[float, float], style: str, latin: bool = True
) -> Array:
    """A layer (h, w, 4) with lines of text. high: of a line, in frame heights. middle: of the text, parts of the frame.

    Raises ValueError where there is no font for it.
    """
    (h, w), points = size, max(9, round(high * size[0]))
    letters = font(points, latin)
    if letters is None:
        raise ValueError("no font with these letters is at hand.")
    image = Image.new("RGBA", (w, h))
    draw = ImageDraw.Draw(image)
    text = _wrapped(text, draw, letters, 0.88 * w)
    stroke = max(1, points // 12) if style in ("outlined", "yellow") else 0
    at = (middle[0] * w, middle[1] * h)
    options = {"font": letters, "anchor": "mm", "align": "center", "stroke_width": stroke}
    if style == "boxed":
        left, top, right, bottom = draw.multiline_textbbox(at, text, **options)
        pad = points // 4
        draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 150))
    ink = {"yellow": (250, 230, 60, 255)}.get(style, (245, 245, 245, 255))
    draw.multiline_text(at, text, fill=ink, stroke_fill=(0, 0, 0, 255), **options)
    return multiplied(image)


def _wrapped(text: str, draw: ImageDraw.ImageDraw, letters, width: float) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=letters) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def sign(rng: np.random.Generator, side: int = 192) -> Array:
    """A shop's sign or a number plate: a square texture to be filmed."""
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    ground, ink = (tuple(int(255 * v) for v in colour) for colour in palette(rng)[[0, 1]])
    high = int(side * rng.uniform(0.3, 0.45))
    draw.rectangle((0, (side - high) // 2, side - 1, (side + high) // 2), fill=(*ground, 255))
    if sum(abs(a - b) for a, b in zip(ground, ink, strict=True)) < 200:
        ink = (255, 255, 255) if sum(ground) < 380 else (10, 10, 10)
    text = str(rng.choice(["BAKERY", "EXIT 12", "HOTEL", "OPEN", "TAXI", "MARKET"]))
    points = high
    while draw.textlength(text, font=font(points)) > 0.9 * side:
        points -= 2
    draw.text((side / 2, side / 2), text, font=font(points), anchor="mm", fill=(*ink, 255))
    return multiplied(image)


# -- logos and watermarks --------------------------------------------------------------------------------------------


def logo(rng: np.random.Generator, size: tuple[int, int], corner: int, strength: float, letters: bool) -> Array:
    """A layer with a channel's mark in a corner, 0 to 3."""
    (h, w), high = size, int(size[0] * rng.uniform(0.08, 0.14))
    image = Image.new("RGBA", (w, h))
    draw = ImageDraw.Draw(image)
    mark = thing(rng, str(rng.choice(["disc", "ring", "polygon", "box"])), palette(rng), True, high)
    margin = int(h * rng.uniform(0.04, 0.08))
    text, points = str(rng.choice(NAMES)), max(10, int(high * 0.7))
    wide = int(draw.textlength(text, font=font(points))) + 1 if letters else high
    left = margin if corner % 2 == 0 else w - margin - wide
    top = margin if corner < 2 else h - margin - high
    if letters:
        draw.text((left, top + high / 2), text, font=font(points), anchor="lm", fill=(240, 240, 240, 255))
    else:  # bright, since marks are to be seen on everything
        there = mark[..., 3:] > 127
        drawn = np.concatenate([np.maximum(mark[..., :3], 110) * there, 255 * there], 2)
        image.paste(Image.fromarray(drawn.astype(np.uint8)), (left, top))
    return multiplied(image, strength)


def watermark(rng: np.random.Generator, size: tuple[int, int], strength: float) -> tuple[Array, list[Box]]:
    """A layer with a name all over the frame, and where each is."""
    (h, w), text = size, str(rng.choice(NAMES))
    letters = font(max(11, int(h * rng.uniform(0.06, 0.1))))
    drawn = Image.new("RGBA", (w, h))
    left, top, right, bottom = ImageDraw.Draw(drawn).textbbox((0, 0), text, font=letters)
    one = Image.new("RGBA", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(one).text((2 - left, 2 - top), text, font=letters, fill=(255, 255, 255, 255))
    one = one.rotate(float(rng.choice([0, 20, 30])), Image.Resampling.BICUBIC, expand=True)
    step_x, step_y = int(one.width * rng.uniform(1.25, 1.8)), int(one.height * rng.uniform(1.3, 2.2))
    boxes = []
    for row in range(math.ceil(h / step_y)):
        for column in range(-1, math.ceil(w / step_x)):
            x, y = column * step_x + (row % 2) * step_x // 2 + 4, row * step_y + 4
            drawn.paste(one, (x, y), one)
            whole_x, whole_y = 0 <= x <= w - one.width, 0 <= y <= h - one.height
            if whole_x and whole_y:
                boxes.append(Box(x, y, one.width, one.height))
    return multiplied(drawn, strength), boxes
