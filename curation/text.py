"""Text that was burned into a clip: subtitles, titles, watermarks that are words. Not what was filmed.

    reader = open_reader(config.scores.text)
    found = reader.read(pictures)          # of one clip, in order

Letters of a shop's sign move with the picture, burned in ones stay on the same pixels while it moves: their edges do
(still.py). What stays is read by RapidOCR where that is installed, and is text if it has letters; elsewhere it is
judged by its shape (strokes.py). Where nothing moves at all, what can be read counts.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..errors import LibraryError
from ..libraries import library, pip
from .pictures import grey
from .still import Frames, Rectangle
from .strokes import candidates, is_line, lines

KINDS = ("auto", "rapidocr", "gradient", "none")
PICKS = 3  # frames that are read: a text that is there for a third of the clip is in one of them
DETECT = 384  # pixels, the longer side at which text is looked for
SURE = 0.6  # of 1: how sure of its words the reader has to be
WORD = re.compile(r"[^\W_]{3}|[^\W_]{2}\W+[^\W_]{2}")  # three letters or digits together, or two and two
UNREAD = 3  # characters and spaces of a line of text in letters that it does not know, at least
TALL = 0.4  # of the picture's height: a higher box is no line of text
STEADY = 0.45  # how alike the edges in a box are where it stays
MOVES = 0.25  # how much less alike those elsewhere have to be


@dataclass(frozen=True)
class Found:
    """area: part of the picture under boxes, 0 to 1; None: it cannot be told. words: what it says, "" where it was not
    read. boxes: (left, top, width, height), parts of the picture."""

    area: float | None = 0.0
    words: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()


class Reader(Protocol):
    name: str

    def read(self, pictures: Sequence[np.ndarray]) -> Found:
        """pictures: (h, w, 3) RGB bytes, all of one size, of one clip, in order."""
        ...


def open_reader(kind: str) -> Reader | None:
    """kind: of KINDS; auto: RapidOCR where it is installed, with its models. None: text is not looked for. Raises
    LibraryError where RapidOCR has to be there and is not."""
    if kind == "none":
        return None
    if kind == "gradient" or (kind == "auto" and not is_there()):
        return Gradient()
    return _rapidocr()


class Gradient:
    """By shape alone: short strokes in a row, which stay while the rest moves."""

    name = "gradient"

    def read(self, pictures: Sequence[np.ndarray]) -> Found:
        found = lines(Frames([grey(p) for p in pictures]))
        if found is None:
            return Found(None)
        boxes = [box for boxes in found for box in boxes]
        return _found(boxes, [], pictures[0].shape[:2]) if boxes else Found()


# -- RapidOCR ---------------------------------------------------------------------------------------------------------


class RapidOCR:
    """engine: rapidocr.RapidOCR. It looks for lines in a few frames; what stays of them it reads."""

    name = "rapidocr"

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def read(self, pictures: Sequence[np.ndarray]) -> Found:
        frames = Frames([grey(p) for p in pictures])
        picks = _picks(frames)
        boxes: list[Rectangle] = []
        words: list[str] = []
        for pick in picks:
            seen = self._lines(pictures[pick])
            for box in seen:
                if not _stays(frames, pick, picks, box, seen):
                    continue
                told = self._words(pictures[pick], box)
                if WORD.search(told) or (len(told) >= UNREAD and is_line(frames, pick, box)):
                    boxes.append(box)
                    words.append(" ".join(told.split()) if WORD.search(told) else "")
        return _found(boxes, words, pictures[0].shape[:2]) if boxes else Found()

    def _lines(self, picture: np.ndarray) -> list[Rectangle]:
        height, width = picture.shape[:2]
        seen = self.engine(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), use_det=True, use_cls=False, use_rec=False)
        found = []
        for corners in () if seen.boxes is None else np.asarray(seen.boxes):
            (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
            box = Rectangle(max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom)))
            if box.area and box.height < TALL * height:
                found.append(box)
        return found

    def _words(self, picture: np.ndarray, box: Rectangle) -> str:
        """As they are read; of letters that it does not know nothing but the spaces between. "": it is not sure."""
        part = np.ascontiguousarray(cv2.cvtColor(picture[box.rows, box.columns], cv2.COLOR_RGB2BGR))
        seen = self.engine(part, use_det=False, use_cls=False, use_rec=True)
        told, score = (seen.txts[0], seen.scores[0]) if seen.txts else ("", 0.0)
        return told if score >= SURE else ""


def _picks(frames: Frames) -> list[int]:
    """Frames to be read: of each part of a clip the one that most looks like text is in, by shape, else its middle."""
    halved = (cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for luma in frames.lumas)
    count, small = len(frames), Frames(list(halved))
    area = [sum(box.area for box in boxes) for boxes in candidates(small)] + [0]
    parts = np.array_split(np.arange(count), min(PICKS, count))
    return [int(max(part, key=lambda k: (area[k], -abs(k - part.mean())))) for part in parts]


def _stays(frames: Frames, pick: int, picks: Sequence[int], box: Rectangle, boxes: Sequence[Rectangle]) -> bool:
    """Whether what is in a box is on the same pixels at another time. boxes: all of that frame."""
    beside = [other for other in (pick - 1, pick + 1) if 0 <= other < len(frames)]
    alike = {k: frames.alike(pick, k, box) for k in {*picks, *beside} - {pick}}
    elsewhere = {k: frames.alike_around(pick, k, boxes, frames.whole) or 0.0 for k in alike}
    far = [k for k in alike if k not in beside]
    if any(alike[k] >= STEADY for k in far):
        return True
    # There for a short time: while the rest moves, or in a scene that stands still, where it comes or goes.
    near = [k for k in beside if alike[k] >= STEADY]
    return any(alike[k] - elsewhere[k] >= MOVES for k in near) or (
        bool(near) and any(elsewhere[k] - alike[k] >= MOVES for k in alike)
    )


def _found(boxes: Sequence[Rectangle], words: Sequence[str], size: tuple[int, int]) -> Found:
    under = np.zeros(size, bool)
    for box in boxes:
        under[box.rows, box.columns] = True
    height, width = size
    parts = tuple((b.left / width, b.top / height, b.width / width, b.height / height) for b in dict.fromkeys(boxes))
    return Found(round(float(under.mean()), 5), " / ".join(dict.fromkeys(filter(None, words))), parts)


@functools.cache
def _rapidocr() -> RapidOCR:
    """One a process. Raises LibraryError."""
    without = "choose scores.text = 'gradient'"
    package = library("rapidocr", "scores.text = 'rapidocr'", without)
    library("onnxruntime", "scores.text = 'rapidocr'", without)
    models = _models()
    if models is None:
        line = pip("install", "--upgrade", "--force-reinstall", "--no-deps", "rapidocr")
        raise LibraryError(
            f"scores.text = 'rapidocr' needs the models that come with rapidocr, which are not there; {line}, "
            f"or {without}."
        )
    # With its models given it fetches none. One thread: what is found then does not depend on the machine.
    engine = package.RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.model_path": str(models[0]),
            "Det.limit_type": "max",
            "Det.limit_side_len": DETECT,
            "Rec.model_path": str(models[1]),
        }
    )
    return RapidOCR(engine)


def is_there() -> bool:
    return importlib.util.find_spec("onnxruntime") is not None and _models() is not None


def _models() -> tuple[Path, Path] | None:
    """What finds lines and what reads them, in rapidocr's own folder."""
    found = importlib.util.find_spec("rapidocr")
    for folder in (found and found.submodule_search_locations) or ():
        files = [sorted(Path(folder, "models").glob(f"*_{part}_*.onnx")) for part in ("det", "rec")]
        if all(files):
            return files[0][0], files[1][0]
    return None
