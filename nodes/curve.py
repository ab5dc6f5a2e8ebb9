"""The paper's Fig. 5 for any clip, as an IMAGE: log SNR over the timestep. ComfyUI brings no matplotlib, PIL it has."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FINER = 3  # drawn this many times larger, then scaled down: PIL's own lines have hard edges
LEFT, TOP, RIGHT, BOTTOM = 66, 46, 20, 54  # margins around the plot, pixels
TEXT, LARGE = 15, 18  # font sizes, pixels
PAPER, INK, PALE, GRID = "#ffffff", "#333333", "#666666", "#e4e4e4"
ORIGINAL = "#8a8a8a"
COLOURS = ("#3b75af", "#d9701e", "#3f8f4f")
DASH = 9.0  # pixels of line, then as many without
UNSEEN = 0.02  # the part at the end of the curves that does not stretch the axis: there they dive to -inf


def draw(curves: dict[str, Tensor], title: str, size: tuple[int, int] = (768, 512)) -> Tensor:
    """A picture (1, h, w, 3) float32 in [0, 1] of ``curves``; ``size`` is (width, height) in pixels."""
    plot = Plot(curves, size)
    plot.axes(title)
    for colour, values in zip(plot.colours(), curves.values(), strict=True):
        plot.curve(values.tolist(), colour)
    if any(values[-1] == -math.inf for values in curves.values()):
        plot.note("-inf at the last step")
    plot.legend(list(curves))
    picture = plot.image.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


class Plot:
    """One picture with axes; all coordinates are pixels of the final picture."""

    def __init__(self, curves: dict[str, Tensor], size: tuple[int, int]):
        self.size = size
        self.count = len(curves)
        self.image = Image.new("RGB", (size[0] * FINER, size[1] * FINER), PAPER)
        self.canvas = ImageDraw.Draw(self.image)
        self.steps = max(len(values) for values in curves.values())
        seen = torch.cat([values[: math.ceil(len(values) * (1 - UNSEEN))] for values in curves.values()])
        seen = seen[seen.isfinite()]
        self.y_ticks = ticks(float(seen.min()), float(seen.max()), 8)

    def colours(self) -> list[str]:
        return [ORIGINAL, *(COLOURS[i % len(COLOURS)] for i in range(self.count - 1))]

    def at(self, step: float, value: float) -> tuple[float, float]:
        """Where timestep ``step`` (1 … N) and ``value`` lie."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        across = step / self.steps
        up = (value - low) / (high - low)
        return LEFT + across * (self.size[0] - LEFT - RIGHT), self.size[1] - BOTTOM - up * (self.size[1] - TOP - BOTTOM)

    def line(self, points: list[tuple[float, float]], colour: str, width: float) -> None:
        self.canvas.line([(x * FINER, y * FINER) for x, y in points], colour, round(width * FINER), joint="curve")

    def text(self, place: tuple[float, float], text: str, anchor: str, colour: str = INK, size: int = TEXT) -> None:
        font = ImageFont.load_default(size * FINER)
        text = text.replace("×", "x")  # the only font that PIL brings has no ×
        self.canvas.text((place[0] * FINER, place[1] * FINER), text, colour, font, anchor=anchor)

    def axes(self, title: str) -> None:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        left, bottom = self.at(0, low)
        right, top = self.at(self.steps, high)
        for value in self.y_ticks:
            y = self.at(0, value)[1]
            self.line([(left, y), (right, y)], GRID, 1)
            self.text((left - 9, y), f"{value:g}", "rm")
        for step in ticks(0, self.steps, 6):
            if step <= self.steps:
                x = self.at(step, low)[0]
                self.line([(x, top), (x, bottom)], GRID, 1)
                self.text((x, bottom + 9), f"{step:g}", "mt")
        self.line([(left, top), (left, bottom), (right, bottom)], INK, 1.2)
        self.text(((left + right) / 2, self.size[1] - 8), "timestep", "ms")
        self.text(((left + right) / 2, 14), title, "mt", size=LARGE)
        self.upright("log SNR", (top + bottom) / 2)

    def upright(self, text: str, y: float) -> None:
        """Text that reads upwards, at the left edge."""
        font = ImageFont.load_default(TEXT * FINER)
        box = font.getbbox(text)
        word = Image.new("L", (int(box[2]), int(box[3])))
        ImageDraw.Draw(word).text((0, 0), text, 255, font)
        word = word.rotate(90, expand=True)
        self.image.paste(INK, (10 * FINER, round(y * FINER - word.height / 2)), word)

    def curve(self, values: list[float], colour: str) -> None:
        """The finite part; what dives under the lowest tick is cut there."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        points = []
        for step, value in enumerate(values, 1):
            if value < low:
                points.append(self.at(step, low))
                break
            if value <= high:
                points.append(self.at(step, value))
        for part in dashes(points) if colour == ORIGINAL else [points]:
            self.line(part, colour, 2.4)

    def note(self, text: str) -> None:
        """A word on the end of the curves, left of where they dive."""
        x, y = self.at(0.94 * self.steps, self.y_ticks[0])
        self.text((x, y - 9), text, "rs", PALE)

    def legend(self, labels: list[str]) -> None:
        font = ImageFont.load_default(TEXT * FINER)
        row, pad, sample = 23, 10, 30
        width = sample + 3 * pad + max(font.getlength(label) for label in labels) / FINER
        right, top = self.size[0] - RIGHT - 8, TOP + 8
        left, bottom = right - width, top + row * len(labels) + pad
        corners = [v * FINER for v in (left, top, right, bottom)]
        self.canvas.rounded_rectangle(corners, 5 * FINER, PAPER, "#cccccc", FINER)
        for i, (label, colour) in enumerate(zip(labels, self.colours(), strict=True)):
            y = top + pad / 2 + row * (i + 0.5)
            points = [(left + pad + x, y) for x in range(sample + 1)]
            for part in dashes(points) if colour == ORIGINAL else [points]:
                self.line(part, colour, 2.4)
            self.text((left + 2 * pad + sample, y), label, "lm")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at or under ``low`` to at or over ``high``, about ``most`` of them."""
    rough = max(high - low, 1e-6) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def dashes(points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a dense line into dashes of equal length along it."""
    parts: list[list[tuple[float, float]]] = []
    length = 0.0
    for before, point in pairwise(points):
        dash, gap = divmod(length, 2 * DASH)
        if gap < DASH:
            if len(parts) <= dash:
                parts.append([before])
            parts[-1].append(point)
        length += math.dist(before, point)
    return parts
