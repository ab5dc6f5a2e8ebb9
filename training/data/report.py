"""What a source came to: clips by size, files left out by reason, and how much its clips move."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .decode import Unreadable

if TYPE_CHECKING:
    from .video_source import VideoSource

RMS_CLIPS = 200


def report(source: VideoSource) -> dict:
    def sizes(media: str) -> dict[str, int]:
        counts = {b: sum(i.file.record.media == media for i in items) for b, items in sorted(source.train.items())}
        return {str(bucket): n for bucket, n in counts.items() if n}

    return {
        "source": source.name,
        "path": source.source.path,
        "clips": sizes("video"),
        "images": sizes("image"),
        "validation": [item.file.record.name for item in source.validation],
        "left_out": dict(Counter(left.reason.partition(":")[0] for left in source.left_out).most_common()),
    }


def write(source: VideoSource, folder: Path, more: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**report(source), **more}, indent=2, ensure_ascii=False)
    (folder / f"data_{source.name}.json").write_text(text + "\n", "utf-8")
    with (folder / f"left_out_{source.name}.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "reason"])
        rows.writerows((left.file, left.reason) for left in source.left_out)


def dataset_rms(source: VideoSource, clips: int = RMS_CLIPS) -> float:
    """Root mean square of the flow's two components, in latent pixels per frame, over so many clips at most.

    It is what loss.flow_scale should be for the flow to count as much as noise of unit variance.
    """
    moving = [item for item in source.items() if item.bucket.frames > 1]
    count = min(clips, len(moving))
    total = weight = 0.0
    for item in (moving[k * len(moving) // count] for k in range(count)):
        try:
            value = source.flow_of(item)
        except Unreadable as error:
            source.leave_out(item, error)
            continue
        total += float((value["flow"].double().square().mean(1) * value["weight"]).sum())
        weight += float(value["weight"].double().sum())
    return (total / weight) ** 0.5 if weight else 0.0
