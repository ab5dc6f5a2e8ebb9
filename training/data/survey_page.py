"""The page that tells what a stage trains on: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ...pipelines import page
from ...pipelines.media.sheets import spaced, to_uint8
from .statistics import Sample

FRAMES = 4  # of a clip


@dataclass(frozen=True)
class Surveyed:
    """What the page tells of a source. facts: of data_<name>.json; none for clips that are made up."""

    name: str
    samples: Sequence[Sample]
    facts: Mapping = field(default_factory=dict)
    sentences: Sequence[str] = ()  # what a person should know before hours of training
    left_out: Sequence[tuple[str, str]] = ()  # (file, reason)


def write_page(path: Path, title: str, about: str, sources: Sequence[Surveyed]) -> None:
    """Written whole or not at all. Raises OSError."""
    page.write(path, title, about, "\n".join(_source(source) for source in sources))


def _source(source: Surveyed) -> str:
    facts = source.facts
    parts = [f"<h2>{escape(source.name)}</h2>"]
    if facts:
        files = facts["files"]
        parts.append(
            f'<p class="faint">{escape(str(facts["path"]))}</p><p>{files["found"]} files: {files["used"]} used, '
            f"{files['captions']} hold the words of others, {files['left_out']} left out</p>"
        )
    else:
        parts.append('<p class="faint">made up while training, as many clips as it takes</p>')
    parts += [f'<p class="warn">{escape(sentence)}</p>' for sentence in source.sentences]
    if facts:
        parts.append(f'<div class="cards">{_cards(facts)}</div>')
    parts.append(f'<div class="clips">{"".join(map(_figure, source.samples))}</div>')
    if source.left_out:
        parts.append(page.listing("Left out", source.left_out, f"left_out_{source.name}.csv"))
    return "\n".join(parts)


def _cards(facts: Mapping) -> str:
    found = facts["statistics"]
    kept_out = sum(n["validation"] for n in found["buckets"].values())
    by_size = {size: n["training"] for size, n in found["buckets"].items()}
    cards = [page.card("Clips by size, frames x height x width", by_size, f"and {kept_out} kept out of training")]
    if "videos" in found:
        videos = found["videos"]
        cards.append(page.card("Frames a second", videos["frame_rate"]))
        cards.append(page.card("Video sizes", videos["size"]))
        about = (
            f"{videos['count']} videos, {page.time(videos['seconds'])} in all; {page.spread(videos['duration'], ' s')}"
        )
        cards.append(page.card("Duration, seconds", page.bins(videos["duration_histogram"]), about))
        if "changed" in videos:
            cards.append(page.card("Not seen as stored", videos["changed"]))
    if "images" in found:
        cards.append(page.card("Picture sizes", found["images"]["size"]))
    for kind, words in found["caption_words"].items():
        if "histogram" in words:
            about = f"{words['different']} different, {words['empty']} empty; {page.spread(words)}"
            cards.append(page.card(f"Words of a caption, {kind}", page.bins(words["histogram"]), about))
    if facts["left_out"]:
        cards.append(page.card("Left out", facts["left_out"]))
    return "".join(cards)


def _figure(sample: Sample) -> str:
    caption = page.short(sample.text)
    if sample.motion and sample.motion != sample.text:
        caption += f' <span class="faint">motion:</span> {page.short(sample.motion)}'
    t, _, h, w = sample.frames.shape
    about = f'{caption}<br><span class="faint">{escape(sample.name)}, {t}x{h}x{w}</span>'
    return page.figure(page.strip([to_uint8(frame) for frame in spaced(sample.frames, FRAMES)]), about)
