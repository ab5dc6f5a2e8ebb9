"""All that was made of the sources -> the set: filters, duplicates, words, shards, tables, report.

Nothing here is of a machine or a run: what comes out depends on the sources' content and the settings alone.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from ..errors import shown, some
from . import duplicates, filters
from .annotate import Words
from .captions import open_captioner
from .categories import open_categories
from .config import CurationConfig
from .process import ITSELF, read_rows
from .rows import COPY, FAILED, Clip, Source
from .shards import video_of, write_shards, write_table
from .sources import Listed
from .store import Store

NOT_ENCODED = "not_encoded"  # rejected when it was found, wanted now, and its source cannot be read any more


@dataclass
class Gathered:
    """Rows of all sources, in an order of their contents."""

    sources: list[Source] = field(default_factory=list)  # in the order of the list
    clips: list[Clip] = field(default_factory=list)  # by name
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, of all that is in the set
    slowest: list[dict[str, object]] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)  # contents whose rows cannot be read any more
    notes: list[str] = field(default_factory=list)  # sentences on words that are missing


def gather(store: Store, listed: Sequence[Listed]) -> Gathered:
    """A row for every source, whatever came of it."""
    found, first, originals, spent = Gathered(), {}, dict[str, Source](), []
    for one in listed:
        outcome = store.told(store.key(one))
        if outcome is None:
            raise AssertionError(f"nothing is known of {one.label}, which was worked on")
        if outcome.problem or not outcome.source_id:
            problem = outcome.problem.replace(os.path.abspath(one.path), one.label)
            row = Source(one.label, status=FAILED, problem=problem, columns=dict(one.columns))
        elif outcome.source_id in first:
            told = f"the same bytes as {first[outcome.source_id]}"
            row = Source(one.label, outcome.source_id, COPY, told, columns=dict(one.columns))
            for name, value in one.columns.items():  # words of a copy are of the same clips
                if originals[outcome.source_id].columns.get(name) is None:
                    originals[outcome.source_id].columns[name] = value
        else:
            first[outcome.source_id] = one.label
            try:
                row, clips, seconds = read_rows(store.clips(outcome.source_id))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                found.damaged.add(outcome.source_id)
                row, clips, seconds = Source(one.label, outcome.source_id), [], {}
            row.source, row.columns = one.label, dict(one.columns)
            row.problem = row.problem.replace(ITSELF, one.label)
            originals[outcome.source_id] = row
            for clip in clips:
                clip.source = one.label
            found.clips += clips
            for stage, took in seconds.items():
                found.seconds[stage] = found.seconds.get(stage, 0.0) + took
            spent.append((sum(seconds.values()), one.label))
        found.sources.append(row)
    found.clips.sort(key=lambda clip: clip.clip)
    found.slowest = [{"source": label, "seconds": round(took, 2)} for took, label in sorted(spent, reverse=True)[:10]]
    return found


def without_video(store: Store, found: Gathered, config: CurationConfig) -> set[str]:
    """Contents of which a clip is wanted that was not encoded when it was found."""
    filters.apply(filters.early(config.filters), found.clips)
    wanted = (clip for clip in found.clips if clip.kept or config.clips.encode == "all")
    return {clip.source_id for clip in wanted if not video_of(store, clip).exists()}


def choose(store: Store, found: Gathered, config: CurationConfig, bar: Callable[..., tqdm]) -> None:
    """Write into every clip its words, and whether and why not it is kept."""
    filters.apply(filters.early(config.filters), found.clips)
    speak(store, found, config, bar)
    filters.apply(config.filters, found.clips)
    for clip in found.clips:
        if clip.kept and not video_of(store, clip).exists():
            clip.kept, clip.reason, clip.reasons = False, NOT_ENCODED, (NOT_ENCODED,)
    staying = [clip for clip in found.clips if clip.kept]
    duplicates.mark(staying, config.duplicates)
    for clip in staying:
        if clip.duplicate_of is not None and config.duplicates.remove:
            clip.kept, clip.reason, clip.reasons = False, filters.DUPLICATE, (filters.DUPLICATE,)
    kept = defaultdict(int)
    for clip in found.clips:
        kept[clip.source] += clip.kept
    for source in found.sources:
        source.kept = kept[source.source]


def speak(store: Store, found: Gathered, config: CurationConfig, bar: Callable[..., tqdm]) -> None:
    """Captions and categories of the clips that are kept so far, and notes of those that cannot be had."""
    columns = {source.source_id: source.columns for source in found.sources if source.status not in (COPY, FAILED)}
    by_source = defaultdict(list)
    for clip in found.clips:
        if clip.kept:
            by_source[clip.source_id].append(clip)
    captioner, classifier = open_captioner(config.captions), open_categories(config.categories)
    asked = []
    if captioner is not None:
        # Of clips that are asked for one by one anyway, one that fails has no say in the others.
        batch = config.captions.batch_size if config.captions.kind == "transformers" else 1
        asked.append(("caption", Words(store, captioner, captioner.caption, batch, config.captions.frames)))
    if classifier is not None:
        batch = config.captions.batch_size if config.categories.kind == "clip" else 1
        asked.append(("category", Words(store, classifier, classifier.categorise, batch, 1)))
    found.notes = []
    for name, words in asked:
        with bar(total=sum(map(len, by_source.values())), desc=name, unit="clip") as progress:
            for source_id in sorted(by_source):
                clips = by_source[source_id]
                told = words.of(source_id, clips, columns[source_id])
                for clip in clips:
                    setattr(clip, name, told[clip.clip])
                progress.update(len(clips))
        words.check()
        if words.failed:
            found.notes.append(f"{len(words.failed)} clips have no {name}, and are asked for again: {words.failed[0]}")
    known = {column for of_source in columns.values() for column in of_source}
    for table, words in (("captions", config.captions), ("categories", config.categories)):
        if words.kind == "column" and columns and words.column not in known:
            has = f"they have {some(sorted(known), 6)}" if known else "they have none"
            found.notes.append(f"No source has a column {shown(words.column)} ({table}.column); {has}.")


def write(store: Store, found: Gathered, config: CurationConfig, bar: Callable[..., tqdm]) -> list[str]:
    """Shards and tables; the names of the shards."""
    kept = [clip for clip in found.clips if clip.kept]
    with bar(total=len(kept), desc="shards", unit="clip") as progress:
        names = write_shards(store, kept, config.shards, progress.update)
    write_table(store.out / "clips.parquet", found.clips, Clip)
    write_table(store.out / "sources.parquet", found.sources, Source)
    return names
