"""The page that tells what a stage trains on: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import whole
from ...pipelines.media.sheets import to_uint8
from .statistics import Sample

TILE = 168  # pixels, height of a frame on the page
FRAMES = 4  # of a clip
LONGEST = 600  # letters of a caption
NAMED = 100  # files left out that the page names; the table beside it names all

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e22; --faint: #6b6e75; --paper: #faf9f6; --card: #fff; --line: #e3e1da;
  --bar: #5b8def; --warn: #b3541e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --faint: #9a9ca3; --paper: #17181b; --card: #1f2125;
  --line: #34363c; --bar: #6f9cf5; --warn: #f0a070; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1680px; padding: 24px 32px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 32px 0 4px; overflow-wrap: anywhere; }
h3 { font-size: 14px; margin: 0 0 8px; } p { margin: 4px 0; } .faint { color: var(--faint); }
.warn { color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 16px; margin: 16px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td { padding: 1px 0; vertical-align: middle; } td.name { white-space: nowrap; padding-right: 10px; }
td.count { text-align: right; padding-left: 8px; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 60%; } td.bar div { background: var(--bar); height: 10px; border-radius: 2px; min-width: 1px; }
td.file { overflow-wrap: anywhere; padding-right: 12px; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(520px, 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figure img { max-width: 100%; display: block; border-radius: 4px; }
figcaption { font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
"""


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
    body = "\n".join(_source(source) for source in sources)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="faint">{escape(about)}</p>\n{body}</body></html>\n'
    )
    with whole(path) as temporary:
        temporary.write_text(page, "utf-8", errors="backslashreplace")


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
        shown = "".join(
            f'<tr><td class="file">{escape(name)}</td><td>{escape(reason)}</td></tr>'
            for name, reason in source.left_out[:NAMED]
        )
        rest = len(source.left_out) - NAMED
        more = f'<p class="faint">and {rest} more, in left_out_{escape(source.name)}.csv</p>' if rest > 0 else ""
        parts.append(f'<div class="card" style="margin-top:16px"><h3>Left out</h3><table>{shown}</table>{more}</div>')
    return "\n".join(parts)


def _cards(facts: Mapping) -> str:
    found = facts["statistics"]
    kept_out = sum(n["validation"] for n in found["buckets"].values())
    by_size = {size: n["training"] for size, n in found["buckets"].items()}
    cards = [_card("Clips by size, frames x height x width", by_size, f"and {kept_out} kept out of training")]
    if "videos" in found:
        videos = found["videos"]
        cards.append(_card("Frames a second", videos["frame_rate"]))
        cards.append(_card("Video sizes", videos["size"]))
        about = f"{videos['count']} videos, {_time(videos['seconds'])} in all; {_spread(videos['duration'], ' s')}"
        cards.append(_card("Duration, seconds", bins(videos["duration_histogram"]), about))
        if "changed" in videos:
            cards.append(_card("Not seen as stored", videos["changed"]))
    if "images" in found:
        cards.append(_card("Picture sizes", found["images"]["size"]))
    for kind, words in found["caption_words"].items():
        if "histogram" in words:
            about = f"{words['different']} different, {words['empty']} empty; {_spread(words, '')}"
            cards.append(_card(f"Words of a caption, {kind}", bins(words["histogram"]), about))
    if facts["left_out"]:
        cards.append(_card("Left out", facts["left_out"]))
    return "".join(cards)


def _card(title: str, counts: Mapping[str, float] | Sequence[tuple[str, float]], about: str = "") -> str:
    pairs = list(counts.items() if isinstance(counts, Mapping) else counts)
    most = max((n for _, n in pairs), default=0) or 1
    rows = "".join(
        f'<tr><td class="name">{escape(str(name))}</td><td class="bar"><div style="width:{100 * n / most:.1f}%"></div>'
        f'</td><td class="count">{n}</td></tr>'
        for name, n in pairs
    )
    told = f'<p class="faint">{escape(about)}</p>' if about else ""
    return f'<div class="card"><h3>{escape(title)}</h3><table>{rows}</table>{told}</div>'


def bins(rows: Sequence[Sequence[float]]) -> list[tuple[str, float]]:
    """With as many digits as tell one from the next."""
    width = min((b - a for a, b, _ in rows), default=1) or 1
    digits = max(0, math.ceil(-math.log10(width)) + 1) if width < 1 or any(a % 1 for a, _, _ in rows) else 0
    if len(rows) == 1:
        return [(f"{a:,g}", n) for a, _, n in rows]
    return [(f"{a:,.{digits}f} to {b:,.{digits}f}", n) for a, b, n in rows]


def _spread(found: Mapping[str, float], unit: str) -> str:
    return f"{found['least']:.3g} to {found['largest']:.3g}{unit}, median {found['median']:.3g}{unit}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figure(sample: Sample) -> str:
    caption = _short(sample.text)
    if sample.motion and sample.motion != sample.text:
        caption += f' <span class="faint">motion:</span> {_short(sample.motion)}'
    t, _, h, w = sample.frames.shape
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{_strip(sample)}"><figcaption>{caption}<br>'
        f'<span class="faint">{escape(sample.name)}, {t}x{h}x{w}</span></figcaption></figure>'
    )


def _short(caption: str) -> str:
    return escape(caption if len(caption) <= LONGEST else caption[:LONGEST] + "…")


def _strip(sample: Sample) -> str:
    """Frames evenly over the clip, side by side, as a JPEG in base 64."""
    t, _, h, w = sample.frames.shape
    width = max(1, round(w * TILE / h))
    picks = np.unique(np.linspace(0, t - 1, min(t, FRAMES)).round().astype(int))
    strip = Image.new("RGB", (len(picks) * (width + 4) - 4, TILE), "white")
    for column, k in enumerate(picks):
        strip.paste(Image.fromarray(to_uint8(sample.frames[k])).resize((width, TILE)), (column * (width + 4), 0))
    data = io.BytesIO()
    strip.save(data, format="JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()
