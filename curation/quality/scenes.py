"""Where scenes end, as it was found, held against what is true: spans that share a moment are the same transition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..analysis import Analysis, Seconds
from ..config import CurationConfig
from ..rows import CUT, DISSOLVE, FADE, WIPE
from .reel import Span
from .truth import Truth

NAMES = {CUT: "cuts", DISSOLVE: "dissolves", FADE: "fades", WIPE: "wipes"}
ALIKE = "dissolves alike"  # those between places that look alike, which are told apart from the others
EVENTS = "no "  # groups of videos in which only events happen begin so
TOLERANCE = 2.5  # frames, of 1 / rate: found and true span may be so far apart


@dataclass
class Seen:
    """What was found in a video. Times are seconds from its first frame on."""

    transitions: list[Span] = field(default_factory=list)
    clips: list[tuple[float, float]] = field(default_factory=list)  # first and last frame
    frames: int = 0
    seconds: float = 0.0  # of a core, that the scene detector took
    judged: int = 0  # times that TransNetV2 was asked
    doubtful: int = 0  # places at which it would have been


def look(folder: Path, config: CurationConfig, truth: Truth) -> Seen:
    """One way through a video, as `curate` goes."""
    spent = Seconds()
    analysis = Analysis(folder / truth.file, config, spent)
    pts = [(int(clip.pts[0]), int(clip.pts[-1])) for clip in analysis]
    start, unit = analysis.pts[0], analysis.unit
    clips = [(float((first - start) * unit), float((last - start) * unit)) for first, last in pts]
    transitions = [Span(*transition) for transition in analysis.transitions]
    assert analysis.finder is not None  # every video here has frames
    judge = analysis.finder.judge
    return Seen(transitions, clips, analysis.source.frames, spent["scenes"], judge.asked, judge.doubtful)


def look_at_all(folder: Path, truths: Sequence[Truth], config: CurationConfig, workers: int, quiet: bool) -> list[Seen]:
    """In the order of the videos."""
    one, context = partial(look, folder, config), get_context("spawn")
    with ProcessPoolExecutor(workers, context) if workers > 1 else nullcontext() as pool:
        found = map(one, truths) if pool is None else pool.map(one, truths)
        return list(tqdm(found, total=len(truths), desc="scenes", unit="video", disable=quiet or None))


@dataclass
class Matched:
    """Of one video."""

    there: Counter[str] = field(default_factory=Counter)  # by true kind
    found: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)  # by the kind that it was taken for
    false: Counter[str] = field(default_factory=Counter)
    missed: list[Span] = field(default_factory=list)
    alarms: list[Span] = field(default_factory=list)


def match(true: Sequence[Span], found: Sequence[Span], frame: float) -> Matched:
    """Each true transition takes the first found one of its own that shares a moment with it.

    What shares no moment with any is false. frame: seconds. A kind taken for another is found: its recall is that of
    what is there, precision that of what was said.
    """
    matched, taken, margin = Matched(), set[int](), TOLERANCE * frame
    for span in sorted(true, key=lambda span: span.end):
        matched.there[span.kind] += 1
        near = [k for k, one in enumerate(found) if k not in taken and _touch(span, one, margin)]
        if near:
            taken.add(min(near, key=lambda k: found[k].end))
            matched.found[span.kind] += 1
        else:
            matched.missed.append(span)
    for one in found:
        if any(_touch(span, one, margin) for span in true):
            matched.right[one.kind] += 1
        else:
            matched.false[one.kind] += 1
            matched.alarms.append(one)
    return matched


def _touch(one: Span, other: Span, margin: float) -> bool:
    return one.start - margin <= other.end and other.start - margin <= one.end


def clips_across(true: Sequence[Span], clips: Iterable[tuple[float, float]], frame: float) -> int:
    """How many clips hold frames of a gradual change, or of both sides of a cut. Half a frame is rounding."""
    half = frame / 2
    return sum(any(first < span.end - half and last > span.start - half for span in true) for first, last in clips)


def summed(truths: Sequence[Truth], seen: Sequence[Seen]) -> dict[str, Any]:
    """Plain data of some videos: recall and precision by kind; clips, and those that hold a transition.

    Dissolves between alike places are counted apart but for precision: what is said to be a dissolve is one of either.
    """
    there, found, right, false = (Counter[str]() for _ in range(4))
    clips, across, alike, alike_found = 0, 0, 0, 0
    for truth, one in zip(truths, seen, strict=True):
        matched = match(truth.transitions, one.transitions, 1 / truth.rate)
        for total, counts in ((there, matched.there), (found, matched.found), (right, matched.right)):
            total.update(counts)
        false.update(matched.false)
        of_alike = [span for span in truth.transitions if span.kind == DISSOLVE and span.alike]
        alike += len(of_alike)
        alike_found += sum(span not in matched.missed for span in of_alike)
        clips += len(one.clips)
        across += clips_across(truth.transitions, one.clips, 1 / truth.rate)
    there[DISSOLVE] -= alike
    found[DISSOLVE] -= alike_found
    kinds = {
        name: {
            "found": found[kind],
            "there": there[kind],
            "false": false[kind],
            "recall": share(found[kind], there[kind]),
            "precision": share(right[kind], right[kind] + false[kind]),
        }
        for kind, name in NAMES.items()
    }
    kinds[ALIKE] = {
        "found": alike_found,
        "there": alike,
        "false": 0,
        "recall": share(alike_found, alike),
        "precision": None,
    }
    return {**kinds, "clips": clips, "clips_with_transition": across}


def events(truths: Sequence[Truth], seen: Sequence[Seen]) -> dict[str, dict[str, int]]:
    """False alarms in videos of one scene, by what happens in it."""
    found: dict[str, dict[str, int]] = {}
    for truth, one in zip(truths, seen, strict=True):
        if truth.group.startswith(EVENTS):
            row = found.setdefault(truth.group.removeprefix(EVENTS), {"videos": 0, "alarms": 0})
            row["videos"] += 1
            row["alarms"] += len(one.transitions)
    return found


def cost(seen: Sequence[Seen]) -> dict[str, Any]:
    """Of the scene detector. judged: times that TransNetV2 looked at 50 frames."""
    frames = sum(one.frames for one in seen)
    return {
        "frames": frames,
        "ms_per_frame": round(1000 * sum(one.seconds for one in seen) / max(frames, 1), 3),
        "doubtful": sum(one.doubtful for one in seen),
        "judged": sum(one.judged for one in seen),
    }


def share(count: int, of: int) -> float | None:
    """None: of nothing."""
    return round(count / of, 4) if of else None


def groups(truths: Sequence[Truth], seen: Sequence[Seen]) -> Mapping[str, dict[str, int]]:
    """Missed and false by the group that a video is of, for who wants to know where."""
    found: dict[str, dict[str, int]] = {}
    for truth, one in zip(truths, seen, strict=True):
        matched = match(truth.transitions, one.transitions, 1 / truth.rate)
        row = found.setdefault(truth.group, {"there": 0, "missed": 0, "false": 0})
        row["there"] += len(truth.transitions)
        row["missed"] += len(matched.missed)
        row["false"] += len(matched.alarms)
    return found
