"""What a source came to: clips by size, files left out by reason, and how much its clips move."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...files import whole
from ...pipelines.media.decode import Unreadable
from .source import FileSource
from .statistics import statistics

RMS_CLIPS = 200


SAID = 5  # files that fail while a run goes on and are named on the screen; the report names all


@dataclass
class Told:
    """Where a source's report lies, and what of it was said."""

    folder: Path
    say: Callable[[str], object]
    more: Mapping[str, object]
    said: int = 0


def report(source: FileSource) -> dict:
    """Counts of files: those that are found are used, words of others, or left out."""
    left = {left.file for left in source.left_out}

    def sizes(media: str) -> dict[str, int]:
        counts = {
            b: sum(i.file.record.media == media and i.file.record.name not in left for i in items)
            for b, items in sorted(source.train.items())
        }
        return {str(bucket): n for bucket, n in counts.items() if n}

    used = {item.file.record.name for item in source.items()} - left
    return {
        "source": source.name,
        "path": source.source.path,
        "files": {
            "found": len(used) + source.captions + len(left),
            "used": len(used),
            "captions": source.captions,
            "left_out": len(left),
        },
        "clips": sizes("video"),
        "images": sizes("image"),
        "validation": [name for item in source.validation if (name := item.file.record.name) not in left],
        "statistics": statistics(source),
        "left_out": dict(Counter(left.reason.partition(":")[0] for left in source.left_out).most_common()),
    }


def write(source: FileSource, told: Told) -> dict:
    """Returns what data_<name>.json holds."""
    told.folder.mkdir(parents=True, exist_ok=True)
    facts = {**report(source), **told.more}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    with whole(told.folder / f"data_{source.name}.json") as temporary:
        temporary.write_text(text, "utf-8", errors="backslashreplace")
    table = told.folder / f"left_out_{source.name}.csv"
    with (
        whole(table) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["file", "reason"])
        rows.writerows((left.file, left.reason) for left in source.left_out)
    return facts


def add(source: FileSource, told: Told) -> None:
    """The last file that was left out, to a report that is written; a disk that is full costs the report alone."""
    left = source.left_out[-1]
    name = left.file.encode(errors="backslashreplace").decode()  # of bytes that are no text
    told.said += 1
    if told.said <= SAID:
        more = f"; further ones are named in {told.folder}/left_out_{source.name}.csv" if told.said == SAID else ""
        told.say(f"{source.name}: {name} is left out from now on, {left.reason}{more}")
    with suppress(OSError):
        if told.said & (told.said - 1) == 0:  # the first, and then ever more rarely
            write(source, told)
        else:
            with (told.folder / f"left_out_{source.name}.csv").open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow((name, left.reason))


def dataset_rms(source: FileSource, clips: int = RMS_CLIPS) -> float:
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
