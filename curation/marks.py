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
SMALL, HIGH, WIDE = 0.03, 0.3, 0.45  # of the shorter side, of the height, of the width: a mark's extent
EDGES = 16  # pixels of them, at least
OUTER = 0.3  # of the shorter side: as near to the edge of the picture is a mark
RING = 0.05  # of the shorter side: what is around a mark
BLUR = 0.015  # of the shorter side: how far its own edges reach
MUCH = 150.0  # of a Sobel: steeper counts as this


class Slopes:
    """pictures: (h, w, 3) bytes each, all of one size, in order. All maps are (h, w)."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.lumas = np.array([grey(picture) for picture in pictures])
        self.count, self.height, self.width = self.lumas.shape
        self.short = min(self.height, self.width)
        mean = np.zeros((2, self.height, self.width), np.float32)
        self.energy, evened_energy = np.zeros_like(mean[0]), np.zeros_like(mean[0])
        self.halves = np.zeros((2, *mean.shape), np.float32)  # of every second frame, and of the others
        for number, (luma, picture) in enumerate(zip(self.lumas, pictures, strict=True)):
            slope = _slope(luma)
            red, _, blue = cv2.split(picture)
            slope += _slope(cv2.addWeighted(red, 0.5, blue, -0.5, 128))  # some marks differ in colour alone
            steep = cv2.magnitude(slope[0], slope[1])
            evened = slope / (steep + ENOUGH)
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
        return np.median(self.lumas, 0).astype(np.float32)

    @cached_property
    def restless(self) -> np.ndarray:
        """The deviation of luma over time."""
        return self.lumas.std(0, dtype=np.float32)


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
    shaped &= (np.minimum(*beside) <= OUTER * there.short) & (stats[:, cv2.CC_STAT_AREA] >= EDGES)
    return np.flatnonzero(shaped[1:]) + 1


# -- how sure ---------------------------------------------------------------------------------------------------------


class Sums:
    """Of maps over rectangles."""

    def __init__(self, there: Slopes) -> None:
        steep, energy = there.steep, there.energy
        maps = {
            "kept": steep * steep,
            "energy": energy,
            "evened": np.minimum(steep, MUCH),
            "still": (there.stays & (steep > STEEP)).astype(np.float32),
            "edges": (energy > STEEP**2).astype(np.float32),
            "restless": there.restless,
        }
        self.sums = {name: cv2.integral(one, sdepth=cv2.CV_64F) for name, one in maps.items()}

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
    ring = {name: sums.of(name, outer) - sums.of(name, inner) for name in sums.sums}
    mine = {name: sums.of(name, box) for name in sums.sums}
    every = {name: sums.of(name, whole) for name in sums.sums}
    around, area = max(1, outer.area - inner.area), box.area
    steep = there.steep[box.rows, box.columns]
    sharp = _sharp(there.middle, box.grown(2, whole), box)[edges]
    restless = float(there.restless[box.rows, box.columns][edges].mean())
    plain = float(np.minimum(steep, MUCH)[~edges].mean()) if not edges.all() else 0.0
    return {
        "share": float(np.log(mine["kept"] / (every["kept"] + 1) + 1e-3)),
        "still share": float(np.log(mine["still"] / (every["still"] + 1) + 1e-3)),
        "apart": float(np.log(ring["kept"] / around / (mine["kept"] / area + 1) + 1e-2)),
        "still around": min(1.0, ring["still"] / around),
        "edges around": min(1.0, ring["edges"] / around),
        "sharp": float(np.median(sharp)),
        "sharpest": float(np.percentile(sharp, 75)),
        **placed(there, box),
        "restless": float(np.log(restless / (ring["restless"] / around + 0.5) + 0.1)),
        "moves": (mine["energy"] - mine["kept"]) / (mine["energy"] + 1),
        "moves around": (ring["energy"] - ring["kept"]) / (ring["energy"] + around * 200),
        "all moves": (every["energy"] - every["kept"]) / (every["energy"] + 1),
        "all still": min(1.0, every["still"] / whole.area),
        "differs": 1 - float(there.alike[box.rows, box.columns][edges].mean()),
        "plain": float(np.log((plain + 1) / (ring["evened"] / around + 4))),
        "full": float(edges.mean()),
        "steep": float(np.log(steep[edges].mean())),
        "height": float(np.log(box.height / short)),
        "width": float(np.log(box.width / short)),
    }


def _sharp(image: np.ndarray, grown: Rectangle, box: Rectangle) -> np.ndarray:
    """How much of a step from dark to light is made from one pixel to the next, 0 to 1."""
    part, kernel = image[grown.rows, grown.columns], np.ones((7, 7), np.uint8)
    height = cv2.dilate(part, kernel) - cv2.erode(part, kernel)
    steep = cv2.magnitude(cv2.Sobel(part, cv2.CV_32F, 1, 0), cv2.Sobel(part, cv2.CV_32F, 0, 1))
    top, left = box.top - grown.top, box.left - grown.left
    return (steep / (4 * height + 8))[top : top + box.height, left : left + box.width]
