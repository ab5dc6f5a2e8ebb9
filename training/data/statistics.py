"""What a source's clips are like: `statistics` in numbers, `samples` to look at; survey_page.py shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...pipelines.media.decode import Unreadable
from .encode import Item
from .source import FileSource

SHOWN = 12  # clips on a survey's page
MOST = 30  # rows of a table of sizes or rates; the rest is counted together
REST = "others"
BINS = 12
TRIED = 4  # files for each clip that is shown, where some cannot be read
# What is done to frames that are not ordinary, by the names of pipelines.media.viewer.
WAYS = {"hdr": "HDR, tone-mapped", "fields": "interlaced, made whole", "alpha": "transparent, on white"}


@dataclass(frozen=True)
class Sample:
    """A clip as training sees it. frames: (t, 3, h, w) in [0, 1]."""

    name: str
    text: str
    motion: str
    frames: Tensor


def statistics(source: FileSource) -> dict:
    """Of the files that are used and the clips taken from them. Plain data.

    Durations in seconds, rates in frames a second, lengths of captions in words; sizes are width x height as shown.
    """
    lost = {left.file for left in source.left_out}
    items = [item for item in source.items() if item.file.record.name not in lost]
    files = list({item.file: None for item in items})
    videos = [file.probe for file in files if file.record.media == "video"]
    images = [file.probe for file in files if file.record.media == "image"]
    kept_out = Counter(item.bucket for item in source.validation if item.file.record.name not in lost)
    trained = Counter(item.bucket for item in items) - kept_out
    found: dict = {}
    if videos:
        seconds = [probe.duration for probe in videos]
        found["videos"] = {
            "count": len(videos),
            "seconds": round(sum(seconds), 3),
            "duration": quantiles(seconds),
            "duration_histogram": histogram(seconds),
            "frames": quantiles([len(probe.pts) for probe in videos]),
            "frame_rate": _counted(f"{probe.fps:.3g}" for probe in videos),
            "size": _counted(f"{probe.width}x{probe.height}" for probe in videos),
        }
        ways = [way.partition("/")[0] for probe in videos for way in probe.ways.split("+") if way]
        if ways:
            found["videos"]["changed"] = _counted(WAYS[way] for way in ways)
    if images:
        found["images"] = {
            "count": len(images),
            "size": _counted(f"{probe.width}x{probe.height}" for probe in images),
        }
    found["buckets"] = {
        str(bucket): {"training": trained[bucket], "validation": kept_out[bucket]}
        for bucket in sorted(set(trained) | set(kept_out))
    }
    kinds = (
        () if source.forbid_upscaling else ("text",) if source.merge_captions else ("text", "motion")
    )  # that are read
    found["caption_words"] = {kind: _captions([getattr(file.record, kind) for file in files]) for kind in kinds}
    return found


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Least, 10 %, median, 90 % and largest."""
    names = ("least", "10 %", "median", "90 %", "largest")
    return {n: round(float(v), 3) for n, v in zip(names, np.quantile(values, (0, 0.1, 0.5, 0.9, 1)), strict=True)}


def histogram(values: Sequence[float]) -> list[list[float]]:
    """Rows of (from, below, how many), of equal width; whole numbers where the values are."""
    if len(set(values)) == 1:
        return [[round(float(values[0]), 3), round(float(values[0]), 3), len(values)]]
    edges = np.linspace(min(values), max(values), BINS + 1)
    if all(isinstance(value, int) for value in values):
        edges = np.unique(np.linspace(min(values), max(values) + 1, BINS + 1).round())
    counts, _ = np.histogram(values, edges)
    return [[round(float(a), 3), round(float(b), 3), int(n)] for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def _captions(captions: list[str]) -> dict:
    """Of one kind, a file each; empty ones are counted apart."""
    words = [len(caption.split()) for caption in captions if caption]
    found = {"empty": len(captions) - len(words), "different": len(set(captions) - {""})}
    return {**found, **(quantiles(words) | {"histogram": histogram(words)} if words else {})}


def _counted(labels: Iterable[str]) -> dict[str, int]:
    """The most frequent first."""
    counts = Counter(labels).most_common()
    rest = sum(count for _, count in counts[MOST:])
    return {**dict(counts[:MOST]), **({REST: rest} if rest else {})}


def samples(source: FileSource, count: int = SHOWN) -> list[Sample]:
    """Clips of different files, of every size in turn.

    Those that cannot be read are passed over, no more: what a page shows must not change what trains.
    """
    found, seen = [], set()
    for item in _in_turn(source):
        if len(found) == count or len(seen) == TRIED * count:
            break
        record = item.file.record
        if record.name in seen:
            continue
        seen.add(record.name)
        with suppress(Unreadable):
            motion = "" if source.merge_captions else record.motion
            found.append(Sample(record.name, record.text, motion, item.frames()))
    return found


def _in_turn(source: FileSource) -> Iterator[Item]:
    """Training clips in their mixed order, one of each bucket after the other."""
    rows = [items for _, items in sorted(source.train.items())]
    for k in range(max(map(len, rows), default=0)):
        yield from (items[k] for items in rows if k < len(items))
