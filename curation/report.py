"""What a curation came to, counted from its rows: plain data, as report.json holds it; report_page.py shows it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..pipelines.page import BINS, counted, of_captions, of_videos, quantiles
from .config import CATEGORIES, Filter
from .rows import COPY, FAILED, OK, Clip, Source

# VF Table 8: per cent of HD-VG-130M.
PAPER = dict(
    zip(
        CATEGORIES,
        (1.06, 1.83, 2.97, 4.83, 5.24, 5.97, 6.73, 6.76, 7.10, 7.61, 7.89, 7.96, 9.57, 11.81, 12.67),
        strict=True,
    )
)
SCORES = ("motion", "sharpness", "brightness", "contrast", "overlay", "text", "nsfw")
COMMON = 0.98  # of a score's values lie within its histogram's even steps
DIGITS = 6  # of scores, some of which are small


def facts(
    sources: Sequence[Source],
    clips: Sequence[Clip],
    *,
    seconds: Mapping[str, float],
    engine: Mapping[str, object],
    notes: Sequence[str],
    filters: Mapping[str, Filter | None] | None = None,
) -> dict:
    """What report.json holds. Counts are of rows; every source is among `sources`, failed ones and copies too.

    seconds: of cores, by stage.
    engine: what is known of the machinery, all of it optional: `runner`; `workers`, how many at once; `wall_seconds` of
    the clock, and `core_seconds` of all cores meanwhile (else the sum of `seconds`), which make `parallelism`: give
    both for the same stretch of work where a run went on from another; `slowest`, of {"source", "seconds"}, the slowest
    first. Whatever else it holds is passed on.
    notes: sentences that a reader of the numbers must know.
    filters: of the run file, so that those that reject nothing are told as well, and what each keeps; without them the
    order is that of the rows.

    `reasons` counts a clip where the first filter rejects it, `all_reasons` wherever one does, `alone` where no other
    filter would. `statistics` are of kept clips, by the functions of the trainer's survey.
    """
    kept = [clip for clip in clips if clip.kept]
    rejected = [clip for clip in clips if not clip.kept]
    assert all(clip.reason for clip in rejected), "a clip is rejected without a reason"
    read = sum(source.duration or 0.0 for source in sources if source.status == OK)
    asked = {name: rule for name, rule in (filters or {}).items() if rule is not None}
    names = _order(asked, rejected)
    rest = dict(engine)
    slowest: object = rest.pop("slowest", [])
    return {
        "sources": len(sources),
        "copies": sum(source.status == COPY for source in sources),
        "failed": [
            {"source": _plain(source.source), "problem": _plain(source.problem)}
            for source in sources
            if source.status == FAILED
        ],
        "sources_kept": len({clip.source_id for clip in kept}),
        "damaged": {
            "sources": sum(source.damaged > 0 for source in sources),
            "packets": sum(source.damaged for source in sources),
        },
        "scenes": sum(source.scenes for source in sources),
        "too_short": sum(source.too_short for source in sources),
        "clips": len(clips),
        "kept": len(kept),
        "filters": {name: {"column": rule.column, "keeps": _keeps(rule)} for name, rule in asked.items()},
        "reasons": _by(names, (clip.reason for clip in rejected)),
        "all_reasons": _by(names, (name for clip in rejected for name in _reasons(clip))),
        "alone": _by(names, (clip.reason for clip in rejected if len(_reasons(clip)) == 1)),
        "seconds": {
            "read": round(read, 3),
            "clips": round(sum(clip.duration for clip in clips), 3),
            "kept": round(sum(clip.duration for clip in kept), 3),
        },
        "statistics": _statistics(kept) if kept else {},
        "scores": {name: found for name in SCORES if (found := _score(name, clips))},
        "categories": _categories(kept),
        "core_seconds": dict(seconds),
        "source_hours_per_core_hour": {
            "by_stage": {stage: _speed(read, spent) for stage, spent in seconds.items()},
            "all": _speed(read, sum(seconds.values())),
        },
        "parallelism": _parallelism(engine, seconds),
        "engine": rest,
        "slowest": [{**row, "source": _plain(str(row["source"]))} for row in _rows(slowest)],
        "notes": [_plain(note) for note in notes],
    }


def _plain(text: str) -> str:
    """Of a name that is no text, its bytes as backslashes, so that any file can hold it."""
    return text.encode(errors="backslashreplace").decode()


def _rows(slowest: object) -> Sequence[Mapping]:
    assert isinstance(slowest, list | tuple)
    return slowest


def _reasons(clip: Clip) -> tuple[str, ...]:
    return clip.reasons or (clip.reason,)


def _order(filters: Iterable[str], rejected: Sequence[Clip]) -> list[str]:
    """Of all reasons. Each clip has its own in the order in which filters were asked; where those do not tell which of
    two comes first, it is the one that is met first."""
    chains = dict.fromkeys([tuple(filters), *(_reasons(clip) for clip in rejected)])
    before: defaultdict[str, set[str]] = defaultdict(set)
    for chain in chains:
        for first, second in pairwise(chain):
            before[second].add(first)
    left = list(dict.fromkeys(name for chain in chains for name in chain))
    order: list[str] = []
    while left:
        # left[0]: rows that were filtered in several orders.
        order.append(next((name for name in left if before[name] <= set(order)), left[0]))
        left.remove(order[-1])
    return order


def _keeps(rule: Filter) -> str:
    """In signs: "1.7 ≤ aspect ≤ 1.8"."""
    told = rule.column
    if rule.equals is not None:
        values = rule.equals if isinstance(rule.equals, list | tuple) else [rule.equals]
        told += f" = {' or '.join(map(str, values))}"
    if rule.min is not None:
        told = f"{rule.min:g} ≤ {told}" if rule.max is not None else f"{told} ≥ {rule.min:g}"
    if rule.max is not None:
        told += f" ≤ {rule.max:g}"
    return told + (", and measured" if rule.missing == "reject" else "")


def _by(names: Sequence[str], values: Iterable[str]) -> dict[str, int]:
    counts = Counter(values)
    return {name: counts[name] for name in names}


def _statistics(kept: Sequence[Clip]) -> dict:
    return {
        "videos": of_videos(
            [clip.duration for clip in kept],
            [clip.frames for clip in kept],
            [clip.fps for clip in kept],
            [(clip.width, clip.height) for clip in kept],
        ),
        "source_size": counted(f"{clip.source_width}x{clip.source_height}" for clip in kept),
        "begins_by": counted(clip.begins_by for clip in kept),
        "ends_by": counted(clip.ends_by for clip in kept),
        "caption_words": {"text": of_captions([clip.caption or "" for clip in kept])},
    }


def _score(column: str, clips: Sequence[Clip]) -> dict:
    """Of the clips that have it: how many, how many of them are 0, quantiles of all and of kept ones, and a histogram
    of those that are not 0, in rows of (from, below, how many, how many of them kept). Empty: none has it."""
    values = np.array([math.nan if (value := getattr(clip, column)) is None else value for clip in clips], dtype=float)
    kept, there = np.array([clip.kept for clip in clips], dtype=bool), np.isfinite(values)
    values, kept = values[there], kept[there]
    if not len(values):
        return {}
    return {
        "measured": len(values),
        "zero": int((values == 0).sum()),
        "clips": quantiles(values.tolist(), DIGITS),
        "kept": quantiles(values[kept].tolist(), DIGITS) if kept.any() else None,
        "histogram": _histogram(values[values != 0], kept[values != 0]),
    }


def _histogram(values: np.ndarray, kept: np.ndarray) -> list[list[float]]:
    """In even steps over what is common; the last one reaches to the largest value, however far that is."""
    if not len(values):
        return []
    edges = np.unique(np.linspace(values.min(), np.quantile(values, COMMON), BINS + 1))
    edges = np.append(edges[:-1], values.max()) if len(edges) > 1 else np.array([values.min(), values.max()])
    if edges[0] == edges[-1]:
        return [[round(float(edges[0]), DIGITS), round(float(edges[0]), DIGITS), len(values), int(kept.sum())]]
    counts, of_kept = np.histogram(values, edges)[0], np.histogram(values[kept], edges)[0]
    ends = [round(float(edge), DIGITS) for edge in edges]
    return [[*row] for row in zip(ends, ends[1:], counts.tolist(), of_kept.tolist(), strict=False)]


def _categories(kept: Sequence[Clip]) -> dict[str, dict]:
    """Kept clips by category, with the per cent of those that have one; beside the paper's where the names are its."""
    counts = Counter(_plain(clip.category) for clip in kept if clip.category)
    total = counts.total()
    if not counts:
        return {}
    if set(counts) <= set(PAPER):
        return {
            name: {"clips": counts[name], "per_cent": round(100 * counts[name] / total, 2), "paper": PAPER[name]}
            for name in reversed(CATEGORIES)  # the largest of the paper's first
        }
    return {name: {"clips": n, "per_cent": round(100 * n / total, 2)} for name, n in counts.most_common()}


def _speed(read: float, spent: float) -> float | None:
    """Hours of video for each hour of a core. None: no time was spent."""
    return round(read / spent, 3) if spent > 0 else None


def _parallelism(engine: Mapping[str, object], seconds: Mapping[str, float]) -> float | None:
    """How many cores were busy, on average. None: not known."""
    wall, cores = engine.get("wall_seconds"), engine.get("core_seconds", sum(seconds.values()))
    if not isinstance(wall, int | float) or not isinstance(cores, int | float) or wall <= 0:
        return None
    return round(cores / wall, 2)
