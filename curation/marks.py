"""Where a clip may have a mark laid over it, and how sure that is, from how it looks and what moves around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import cv2
import numpy as np

from .pictures import grey
from .still import Rectangle

SHORT = 270  # pixels, the shorter side that edges are looked for at
STEEP = 30.0  # of a Sobel: weaker slopes are no edges
ENOUGH = 40.0  # of a Sobel, by which none counts for much more than others: one that passes does not stay
FAINT = 15.0  # of a Sobel: the same of those that stand out
STAYS = 0.55  # of 1: how alike slopes of all frames are where they stay
LEVELS = (30, 60, 110, 180, 280, 420)  # of a Sobel: a mark may have stronger edges than what it lies on
GAPS = (0.03, 0.06)  # of the shorter side, between edges of one mark
SMALL, LONG = 0.03, 0.05  # of the shorter side: a mark's shorter and longer side, at least
LARGE = 0.03  # of the picture: the largest of them
HIGH, WIDE = 0.3, 0.45  # of the height, of the width: at most
EDGES = 16  # pixels of them, at least
OUTER = 0.3  # of the shorter side: as near to the edge of the picture is a mark
RING = 0.05  # of the shorter side: what is around a mark
BLUR = 0.015  # of the shorter side: how far its own edges reach
FEW = 50  # pixels of edges that stay, by which it is not known how sharp a clip is


class Slopes:
    """pictures: (h, w, 3) bytes each, all of one size, in order. All maps are (h, w)."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.lumas = np.array([grey(picture) for picture in pictures])
        self.count, self.height, self.width = self.lumas.shape
        self.short = min(self.height, self.width)
        mean = np.zeros((2, self.height, self.width), np.float32)
        self.energy, evened_energy = np.zeros_like(mean[0]), np.zeros_like(mean[0])
        self.halves = np.zeros((2, *mean.shape), np.float32)  # of every second frame, and of the others
        self.evened = list[np.ndarray]()  # (2, h, w) of each frame
        for number, (luma, picture) in enumerate(zip(self.lumas, pictures, strict=True)):
            slope = _slope(luma)
            red, _, blue = cv2.split(picture)
            slope += _slope(cv2.addWeighted(red, 0.5, blue, -0.5, 128))  # some marks differ in colour alone
            steep = cv2.magnitude(slope[0], slope[1])
            evened = slope / (steep + ENOUGH)
            self.evened.append(evened)
            self.halves[number % 2] += evened
            mean += slope / self.count
            self.energy += steep * steep / self.count
            evened_energy += (evened * evened).sum(0)
        total = self.halves.sum(0)
        strength = cv2.blur((total * total).sum(0), (5, 5))
        self.alike = strength / (self.count * cv2.blur(evened_energy, (5, 5)) + 1e-3)  # 1: the same in all frames
        self.stays = self.alike >= max(STAYS, (1 + 0.3 * (self.count - 1)) / self.count)
        self.steep = cv2.magnitude(mean[0], mean[1])  # of what stays

    @cached_property
    def middle(self) -> np.ndarray:
        """The median of the frames."""
        ordered: list[np.ndarray] = list(self.lumas)
        for turn in range(self.count):  # each changes places with its neighbour; so all pixels are ordered at once
            for k in range(turn % 2, self.count - 1, 2):
                one, other = ordered[k], ordered[k + 1]
                ordered[k], ordered[k + 1] = cv2.min(one, other), cv2.max(one, other)
        return (ordered[(self.count - 1) // 2].astype(np.float32) + ordered[self.count // 2]) / 2

    @cached_property
    def sharp(self) -> np.ndarray:
        """How much of a step from dark to light is made from one pixel to the next, 0 to 1."""
        kernel = np.ones((7, 7), np.uint8)
        height = cv2.dilate(self.middle, kernel) - cv2.erode(self.middle, kernel)
        steep = cv2.magnitude(cv2.Sobel(self.middle, cv2.CV_32F, 1, 0), cv2.Sobel(self.middle, cv2.CV_32F, 0, 1))
        return steep / (4 * height + 8)

    @cached_property
    def sharpest(self) -> float:
        """The same of the sharper ones of all edges that stay."""
        sharp = self.sharp[self.stays & (self.steep > STEEP)]
        return float(np.percentile(sharp, 75)) if len(sharp) > FEW else 0.4

    @cached_property
    def restless(self) -> np.ndarray:
        """The deviation of luma over time."""
        total, squares = np.zeros((2, self.height, self.width), np.float32)
        for luma in self.lumas:
            cv2.accumulate(luma, total)
            cv2.accumulateSquare(luma, squares)
        mean = total / self.count
        return np.sqrt(np.maximum(squares / self.count - mean * mean, 0))


def slopes(pictures: Sequence[np.ndarray]) -> Slopes:
    """Of pictures (h, w, 3), sized."""
    return Slopes([_sized(picture) for picture in pictures])


def _slope(image: np.ndarray) -> np.ndarray:
    """(2, h, w): how steep, at twice the angle, so that an edge from light to dark is one from dark to light."""
    across, down = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
    steep = cv2.magnitude(across, down) + 1e-3
    return np.stack([(across * across - down * down) / steep, 2 * across * down / steep])


def _sized(picture: np.ndarray) -> np.ndarray:
    scale = min(1.0, SHORT / min(picture.shape[:2]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture


# -- where ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    box: Rectangle
    edges: np.ndarray  # (h, w) of the box, which of its pixels are


def candidates(there: Slopes) -> Iterator[Candidate]:
    """Edges that stay, near one another or all around a place, and near the edge of the picture; some are twice."""
    known = set()
    for mask, gaps in _masks(there):
        drawn = mask.astype(np.uint8)
        found = chain(*(_joined(there, drawn, max(3, round(gap * there.short))) for gap in gaps), _closed(there, drawn))
        for candidate in found:
            key = tuple(v // 2 for v in candidate.box)
            if key not in known:
                known.add(key)
                yield candidate


def _masks(there: Slopes) -> Iterator[tuple[np.ndarray, Sequence[float]]]:
    """Which edges may be a mark's: those of some strength, and those that stand out from what is around them, be it by
    how steep they are or how much they stay."""
    for level in LEVELS:
        yield there.stays & (there.steep >= level), GAPS
    size = there.short // 6, there.short // 6
    around, alike = cv2.blur(there.steep, size), cv2.blur(there.alike, size)
    rather = there.alike >= (1 + 0.15 * (there.count - 1)) / there.count
    for times in (2, 3):
        yield rather & (there.steep >= np.maximum(FAINT, times * around)), GAPS
    yield (there.alike >= 1.6 * alike) & (there.steep >= FAINT), GAPS


def _joined(there: Slopes, mask: np.ndarray, gap: int) -> Iterator[Candidate]:
    kernel = np.ones((gap, gap), np.uint8)
    joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    for number in _shaped(there, stats):
        left, top, w, h, _ = stats[number].tolist()
        box = Rectangle(left, top, left + w, top + h)
        edges = (labels[box.rows, box.columns] == number) & (mask[box.rows, box.columns] > 0)
        if edges.sum() >= EDGES:
            yield Candidate(box, edges)


def _closed(there: Slopes, mask: np.ndarray) -> Iterator[Candidate]:
    """Places that edges go all around, together with these."""
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - closed, connectivity=4)
    whole = Rectangle(0, 0, there.width, there.height)
    for number in _shaped(there, stats):
        left, top, w, h, area = stats[number].tolist()
        if area < 0.3 * w * h:
            continue
        box = Rectangle(left, top, left + w, top + h).grown(3, whole)
        inside = (labels[box.rows, box.columns] == number).astype(np.uint8)
        edges = (cv2.dilate(inside, np.ones((7, 7), np.uint8)) > 0) & (mask[box.rows, box.columns] > 0)
        if edges.sum() >= EDGES:
            yield Candidate(box, edges)


def _shaped(there: Slopes, stats: np.ndarray) -> np.ndarray:
    """Numbers of what is as large as marks are, and where they are. 0 is what is not joined."""
    w, h = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    beside = np.minimum(left, there.width - left - w), np.minimum(top, there.height - top - h)
    shaped = (np.minimum(w, h) >= SMALL * there.short) & (h <= HIGH * there.height) & (w <= WIDE * there.width)
    shaped &= (np.maximum(w, h) >= LONG * there.short) & (w * h <= LARGE * there.width * there.height)
    shaped &= (np.minimum(*beside) <= OUTER * there.short) & (stats[:, cv2.CC_STAT_AREA] >= EDGES)
    return np.flatnonzero(shaped[1:]) + 1


# -- how sure ---------------------------------------------------------------------------------------------------------


class Sums:
    """Of maps over rectangles."""

    def __init__(self, there: Slopes) -> None:
        maps = {
            "kept": there.steep * there.steep,
            "energy": there.energy,
            "still": (there.stays & (there.steep > STEEP)).astype(np.float32),
            "alike": there.alike,
            "restless": there.restless,
            "luma": there.middle,
        }
        self.sums = {name: cv2.integral(one, sdepth=cv2.CV_64F) for name, one in maps.items()}
        energy, kept = (float(self.sums[name][-1, -1]) for name in ("energy", "kept"))
        self.moves = (energy - kept) / (energy + 1)  # the part of all edges' energy that is of edges that move

    def of(self, name: str, box: Rectangle) -> float:
        s = self.sums[name]
        return float(s[box.bottom, box.right] - s[box.top, box.right] - s[box.bottom, box.left] + s[box.top, box.left])


def placed(there: Slopes, box: Rectangle) -> dict[str, float]:
    """How far from the edges of the picture, in shorter sides."""
    side, top = min(box.left, there.width - box.right), min(box.top, there.height - box.bottom)
    return {
        "from side": min(0.4, side / there.short),
        "from top": min(0.4, top / there.short),
        "at edge": max(0.0, 0.04 - min(side, top) / there.short),
    }


def traits(there: Slopes, sums: Sums, candidate: Candidate) -> dict[str, float]:
    """What speaks for a mark, or against it."""
    box, edges = candidate.box, candidate.edges
    whole, short = Rectangle(0, 0, there.width, there.height), there.short
    inner = box.grown(max(3, round(BLUR * short)), whole)
    outer = inner.grown(max(6, round(RING * short)), whole)
    size = max(1, outer.area - inner.area)
    ring = {name: (sums.of(name, outer) - sums.of(name, inner)) / size for name in sums.sums}
    mine = {name: sums.of(name, box) / box.area for name in sums.sums}
    sharp, filled = there.sharp[box.rows, box.columns][edges], _filled(edges)
    return {
        # How it differs from what is around it.
        "apart": _log(ring["kept"] / (mine["kept"] + 1) + 1e-2),
        "still around": min(1.0, ring["still"]),
        "alike around": ring["alike"],
        "quiet": _log((mine["energy"] - mine["kept"] + 20) / (ring["energy"] - ring["kept"] + 20)),
        "calm": _log((mine["restless"] + 0.5) / (ring["restless"] + 0.5)),
        "light": (mine["luma"] - ring["luma"]) / 255,
        # How it is drawn.
        "sharp": float(np.median(sharp)),
        "sharpest": float(np.percentile(sharp, 75)),
        "sharpest of all": _log((float(np.percentile(sharp, 75)) + 0.02) / (there.sharpest + 0.02)),
        "filled": float(filled.mean()),
        "area": _log(float(filled.sum()) / short**2),
        "height": _log(box.height / short),
        "width": _log(box.width / short),
        # Where it is, and when.
        **placed(there, box),
        "least": _least(there, candidate),
        "all moves": sums.moves,
    }


def _log(value: float) -> float:
    return float(np.log(value))


def _least(there: Slopes, candidate: Candidate) -> float:
    """How much of the edges there is in the frame that has least of them; 1: as much as in all."""
    box, edges = candidate.box, candidate.edges
    frames = [evened[:, box.rows, box.columns][:, edges] for evened in there.evened]
    total = sum(frames, start=np.zeros_like(frames[0]))
    way = total / (np.hypot(total[0], total[1]) + 1e-3)
    there_of = [float((frame * way).sum(0).mean()) for frame in frames]
    return min(there_of) / (sum(there_of) / len(there_of) + 1e-3)


def _filled(edges: np.ndarray) -> np.ndarray:
    """The edges, and what they go all around."""
    drawn = cv2.morphologyEx(np.pad(edges.astype(np.uint8), 2), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels = cv2.connectedComponents(1 - drawn, connectivity=4)
    return (labels != labels[0, 0])[2:-2, 2:-2]
