"""Pages for people: one HTML file each, which needs nothing beside it and runs nothing; and numbers for such pages.

`write` makes a page of parts: `card`, `columns`, `listing`, `figure`. What they are given is escaped, but where it is
said to be HTML. `quantiles`, `histogram`, `counted`, `of_videos` and `of_captions` are plain data, the same for all who
count clips.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from ..files import whole

TILE = 168  # pixels, height of a frame on a page
LONGEST = 600  # letters of a caption
NAMED = 100  # files of a listing that the page names
MOST = 30  # rows of a table of sizes or rates; the rest is counted together
REST = "others"
BINS = 12

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
# Of pages that draw `columns`, to be added to theirs.
COLUMNS = """
:root { --pale: #dbd8d0; } @media (prefers-color-scheme: dark) { :root { --pale: #474a52; } }
.columns { display: flex; align-items: flex-end; gap: 2px; height: 110px; border-bottom: 1px solid var(--line); }
.columns > div { flex: 1; display: flex; align-items: flex-end; background: var(--bar); border-radius: 2px 2px 0 0; }
.columns > div.some { background: var(--pale); }
.columns > div > div { width: 100%; background: var(--bar); border-radius: 2px 2px 0 0; }
.ends { display: flex; justify-content: space-between; font-size: 12px; color: var(--faint); margin: 2px 0 6px;
  font-variant-numeric: tabular-nums; }
"""


# -- pages ------------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike, title: str, about: str, body: str, style: str = "") -> None:
    """Written whole or not at all; names that are no text are written with backslashes. Raises OSError.

    body: HTML. style: what the page adds to STYLE.
    """
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="faint">{escape(about)}</p>\n{body}</body></html>\n'
    )
    with whole(path) as temporary:
        temporary.write_text(page, "utf-8", errors="backslashreplace")


def card(
    title: str,
    counts: Mapping[str, float] | Sequence[tuple[str, float]],
    about: str = "",
    told: Callable[[float], str] = str,
) -> str:
    """Names with a bar and a number each. told: how the number is written."""
    pairs = list(counts.items() if isinstance(counts, Mapping) else counts)
    most = max((n for _, n in pairs), default=0) or 1
    rows = "".join(
        f'<tr><td class="name">{escape(str(name))}</td><td class="bar"><div style="width:{100 * n / most:.1f}%"></div>'
        f'</td><td class="count">{escape(told(n))}</td></tr>'
        for name, n in pairs
    )
    return f'<div class="card"><h3>{escape(title)}</h3><table>{rows}</table>{faint(about)}</div>'


def columns(title: str, rows: Sequence[Sequence[float]], about: str = "", parts: Sequence[float] = ()) -> str:
    """A histogram's rows of (from, below, how many) as upright bars, under them where they begin and end.

    parts: how many of each row count; the bar's rest is pale. Needs COLUMNS.
    """
    most = max((n for *_, n in rows), default=0) or 1
    bars = []
    for k, (name, n) in enumerate(bins(rows)):
        told, inner, kind = f"{name}: {n:,}", "", ""
        if parts:
            told = f"{name}: {parts[k]:,} of {n:,}"
            inner, kind = f'<div style="height:{100 * parts[k] / (n or 1):.1f}%"></div>', ' class="some"'
        bars.append(f'<div{kind} style="height:{100 * n / most:.1f}%" title="{escape(told)}">{inner}</div>')
    middle = [] if len(rows) % 2 else [row[0] for row in rows[len(rows) // 2 :][:1]]
    marks = dict.fromkeys([*(row[0] for row in rows[:1]), *middle, *(row[1] for row in rows[-1:])])
    ends = "".join(f"<span>{number(end)}</span>" for end in marks)
    return (
        f'<div class="card"><h3>{escape(title)}</h3><div class="columns">{"".join(bars)}</div>'
        f'<div class="ends">{ends}</div>{faint(about)}</div>'
    )


def listing(title: str, rows: Sequence[tuple[str, str]], where: str) -> str:
    """A card of files and what is said of each: the first NAMED, and where the others are."""
    shown = "".join(
        f'<tr><td class="file">{escape(name)}</td><td>{escape(told)}</td></tr>' for name, told in rows[:NAMED]
    )
    rest = len(rows) - NAMED
    more = faint(f"and {rest} more, in {where}") if rest > 0 else ""
    return f'<div class="card" style="margin-top:16px"><h3>{escape(title)}</h3><table>{shown}</table>{more}</div>'


def figure(jpeg: bytes, caption: str) -> str:
    """caption: HTML."""
    data = base64.b64encode(jpeg).decode()
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def faint(text: str) -> str:
    """A paragraph; nothing of no words."""
    return f'<p class="faint">{escape(text)}</p>' if text else ""


def short(caption: str) -> str:
    """As HTML, and no longer than LONGEST letters."""
    return escape(caption if len(caption) <= LONGEST else caption[:LONGEST] + "…")


def strip(frames: Sequence[np.ndarray], tile: int = TILE, gap: int = 4) -> bytes:
    """Frames (h, w, 3) of bytes, all of one size, side by side as a JPEG, `tile` pixels high and `gap` apart."""
    h, w = frames[0].shape[:2]
    width = max(1, round(w * tile / h))
    image = Image.new("RGB", (len(frames) * (width + gap) - gap, tile), "white")
    for column, frame in enumerate(frames):
        image.paste(Image.fromarray(frame).resize((width, tile)), (column * (width + gap), 0))
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=85)
    return data.getvalue()


# -- numbers as words -------------------------------------------------------------------------------------------------


def bins(rows: Sequence[Sequence[float]]) -> list[tuple[str, float]]:
    """A histogram's rows by name, with as many digits as tell one from the next."""
    width = min((b - a for a, b, _ in rows), default=1) or 1
    digits = max(0, math.ceil(-math.log10(width)) + 1) if width < 1 or any(a % 1 for a, _, _ in rows) else 0
    if len(rows) == 1:
        return [(f"{a:,g}", n) for a, _, n in rows]
    return [(f"{a:,.{digits}f} to {b:,.{digits}f}", n) for a, b, n in rows]


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(found: Mapping[str, float], unit: str = "") -> str:
    """Quantiles in a few words. unit: with the space before it."""
    return f"{found['least']:.3g} to {found['largest']:.3g}{unit}, median {found['median']:.3g}{unit}"


def time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- numbers ----------------------------------------------------------------------------------------------------------


def quantiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Least, 10 %, median, 90 % and largest."""
    names = ("least", "10 %", "median", "90 %", "largest")
    found = np.quantile(values, (0, 0.1, 0.5, 0.9, 1))
    return {name: round(float(value), digits) for name, value in zip(names, found, strict=True)}


def histogram(values: Sequence[float]) -> list[list[float]]:
    """Rows of (from, below, how many), of equal width; whole numbers where the values are."""
    if len(set(values)) == 1:
        return [[round(float(values[0]), 3), round(float(values[0]), 3), len(values)]]
    edges = np.linspace(min(values), max(values), BINS + 1)
    if all(isinstance(value, int) for value in values):
        edges = np.unique(np.linspace(min(values), max(values) + 1, BINS + 1).round())
    counts, _ = np.histogram(values, edges)
    return [[round(float(a), 3), round(float(b), 3), int(n)] for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def counted(labels: Iterable[str]) -> dict[str, int]:
    """The most frequent first."""
    counts = Counter(labels).most_common()
    rest = sum(count for _, count in counts[MOST:])
    return {**dict(counts[:MOST]), **({REST: rest} if rest else {})}


def of_videos(
    seconds: Sequence[float], frames: Sequence[int], rates: Iterable[float], sizes: Iterable[tuple[int, int]]
) -> dict:
    """Of one video or more: durations in seconds, rates in frames a second, sizes (width, height) as shown."""
    return {
        "count": len(seconds),
        "seconds": round(sum(seconds), 3),
        "duration": quantiles(seconds),
        "duration_histogram": histogram(seconds),
        "frames": quantiles(frames),
        "frame_rate": counted(f"{rate:.3g}" for rate in rates),
        "size": counted(f"{width}x{height}" for width, height in sizes),
    }


def of_captions(captions: Sequence[str]) -> dict:
    """Lengths in words, a caption a file; empty ones are counted apart."""
    words = [len(caption.split()) for caption in captions if caption]
    found = {"empty": len(captions) - len(words), "different": len(set(captions) - {""})}
    return {**found, **(quantiles(words) | {"histogram": histogram(words)} if words else {})}
