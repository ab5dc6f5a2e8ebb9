"""Lines of text by their shape: short strokes in a row that stay on the same pixels for a while. Without weights."""

from __future__ import annotations

import cv2
import numpy as np

from .still import Frames, Rectangle

LOW, HIGH = 0.02, 0.2  # of the picture's height: lines of text
WIDE, LONG = 0.04, 2.4  # of the picture's width, and of a line's own height: its least length
GAP = 0.03  # of the picture's width: between words
SHARP = 160.0  # of a Sobel: letters are made to be seen
FULL = 0.2  # of a line's pixels are edges that stay, at least
UPRIGHT = (0.3, 0.92)  # of its edges' energy is of upright strokes
PLAIN_LONG, PLAIN_SHARP, PLAIN_FULL = 5.0, 300.0, 0.5  # the same of plain cases
STROKES = 1.3  # edges that are crossed on the way along a line, in as many heights
BLUR = 4  # pixels around a line that its own edges still reach
STILL = 0.5  # how alike edges around a line are where the scene stands still
GONE = 0.2  # how alike its own are where it is not there


def lines(frames: Frames) -> list[list[Rectangle]] | None:
    """Boxes around them, of each frame and the next. None: it cannot be told, since nothing beside them moves."""
    if len(frames) < 2:
        return None
    found: list[list[Rectangle]] = []
    doubtful = False
    for one, boxes in enumerate(candidates(frames)):
        found.append([box for box in boxes if _is_laid_over(frames, one, box, boxes)])
        doubtful |= len(found[-1]) < len(boxes)
    return None if doubtful and not any(found) else found


def candidates(frames: Frames) -> list[list[Rectangle]]:
    """What looks like one and stays, of each frame and the next: it may be scenery."""
    found, away = [], len(frames) // 2
    for one in range(len(frames) - 1):
        slopes, still = frames.slopes(one), _still(frames, one, one + 1)
        boxes = _lines(still, slopes)
        # Once more without what is there at another time too, which may run into it.
        known = frames.still(one, one + away if one + away < len(frames) else one - away)
        boxes += [box for box in _lines(still & ~known, slopes) if not any(box.touches(other) for other in boxes)]
        found.append(boxes)
    return found


def _still(frames: Frames, one: int, other: int) -> np.ndarray:
    """Edges that stay and are as strong as those of letters."""
    return frames.still(one, other) & (np.hypot(*frames.slopes(one)) >= SHARP / 2)


def _is_laid_over(frames: Frames, one: int, box: Rectangle, boxes: list[Rectangle]) -> bool:
    """Whether it stays while what is beside it moves, or comes or goes while that stays."""
    boxes = [each.grown(BLUR, frames.whole) for each in boxes]
    sides = _sides(box, frames.whole)
    moved = [frames.alike_around(one, one + 1, boxes, side) for side in sides]
    if all(alike is None for alike in moved):
        sides = [frames.whole]
        moved = [frames.alike_around(one, one + 1, boxes, frames.whole)]
    if min((alike for alike in moved if alike is not None), default=0.0) < STILL:
        return True
    for other in range(len(frames)):
        if frames.alike(one, other, box) < GONE:
            stays = [frames.alike_around(one, other, boxes, side) for side in sides]
            if min((alike for alike in stays if alike is not None), default=0.0) >= STILL:
                return True
    return False


def _sides(box: Rectangle, within: Rectangle) -> list[Rectangle]:
    """Above, below, left and right of it, as wide as it is high."""
    around = box.grown(box.height, within)
    return [
        around._replace(bottom=box.top), around._replace(top=box.bottom),
        around._replace(right=box.left), around._replace(left=box.right),
    ]  # fmt: skip


def _lines(still: np.ndarray, slopes: np.ndarray) -> list[Rectangle]:
    height, width = still.shape
    kernel = np.ones((3, max(3, round(GAP * width))), np.uint8)
    still = _thick(still)
    joined = cv2.morphologyEx(still, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    found = _lines_of(joined, still, slopes)
    # Once more without what is thinner than a line of text: posts and horizons that run into it. What is left of other
    # things may look like one, too, so it has to be a plain case.
    thick = np.ones((max(3, round(LOW * height)), max(3, round(WIDE * width))), np.uint8)
    opened = _lines_of(cv2.morphologyEx(joined, cv2.MORPH_OPEN, thick), still, slopes, plain=True)
    return found + [box for box in opened if not any(box.touches(other) for other in found)]


def _lines_of(joined: np.ndarray, still: np.ndarray, slopes: np.ndarray, plain: bool = False) -> list[Rectangle]:
    height, width = still.shape
    least = PLAIN_LONG if plain else LONG
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined)
    found = []
    for left, top, w, h, _ in stats[1:count].tolist():
        box = Rectangle(left, top, left + w, top + h)
        shaped = LOW * height <= h <= HIGH * height and w >= max(WIDE * width, least * h)
        if shaped and _is_line(still[box.rows, box.columns], slopes[:, box.rows, box.columns], plain):
            found.append(box)
    return found


def _thick(still: np.ndarray) -> np.ndarray:
    """Bytes. Some edges of what moves stay by chance, but few beside one another."""
    return cv2.medianBlur(still.astype(np.uint8), 5)


def is_line(frames: Frames, one: int, box: Rectangle) -> bool:
    """Whether what is in a box, and stays until the next frame or since the last, has the shape of one."""
    for other in (one - 1, one + 1):
        if 0 <= other < len(frames):
            still = _thick(_still(frames, one, other))
            if _is_line(still[box.rows, box.columns], frames.slopes(one)[:, box.rows, box.columns]):
                return True
    return False


def _is_line(still: np.ndarray, slopes: np.ndarray, plain: bool = False) -> bool:
    if still.mean() < (PLAIN_FULL if plain else FULL):
        return False
    across, down = (slopes * still) ** 2
    if float(across.sum() + down.sum()) < (PLAIN_SHARP if plain else SHARP) ** 2 * float(still.sum()):
        return False
    upright = float(across.sum() / max(1.0, across.sum() + down.sum()))
    if not UPRIGHT[0] <= upright <= UPRIGHT[1]:
        return False
    # The signs of slopes along rows: an edge up and an edge down for each stroke.
    signs = np.sign(slopes[0]) * still
    crossed = []
    for row in signs[len(signs) // 4 : max(len(signs) // 4 + 1, len(signs) * 3 // 4)]:
        edges = row[row != 0]
        crossed.append(int((edges[1:] != edges[:-1]).sum()))
    return float(np.median(crossed)) >= STROKES * still.shape[1] / still.shape[0]
