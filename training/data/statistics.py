"""What a source's clips are like: `statistics` in numbers, `samples` to look at; survey_page.py shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from ...pipelines.media.decode import Unreadable
from ...pipelines.page import counted, of_captions, of_videos
from .encode import Item
from .source import FileSource

SHOWN = 12  # clips on a survey's page
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
        found["videos"] = of_videos(
            [probe.duration for probe in videos],
            [len(probe.pts) for probe in videos],
            [probe.fps for probe in videos],
            [(probe.width, probe.height) for probe in videos],
        )
        ways = [way.partition("/")[0] for probe in videos for way in probe.ways.split("+") if way]
        if ways:
            found["videos"]["changed"] = counted(WAYS[way] for way in ways)
    if images:
        found["images"] = {
            "count": len(images),
            "size": counted(f"{probe.width}x{probe.height}" for probe in images),
        }
    found["buckets"] = {
        str(bucket): {"training": trained[bucket], "validation": kept_out[bucket]}
        for bucket in sorted(set(trained) | set(kept_out))
    }
    kinds = (
        () if source.forbid_upscaling else ("text",) if source.merge_captions else ("text", "motion")
    )  # that are read
    found["caption_words"] = {kind: of_captions([getattr(file.record, kind) for file in files]) for kind in kinds}
    return found


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
