"""Clips to look at, on report.html: kept ones with their captions, rejected ones by the filter that rejects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..pipelines import page
from .report import SCORES
from .rows import Clip

Pictures = Sequence[tuple[Clip, bytes]]  # each with a JPEG


def kept_clips(kept: Pictures) -> str:
    return f'<div class="clips">{"".join(map(_kept, kept))}</div>'


def rejected_clips(facts: Mapping, rejected: Pictures) -> str:
    """A fold for each first reason, in the funnel's order, with what was measured."""
    parts = []
    for reason, count in facts["reasons"].items():
        shown = [pair for pair in rejected if pair[0].reason == reason]
        if shown:
            rule = facts["filters"].get(reason, {})
            told = f"{len(shown):,} of {count:,}" + (f"; kept is {rule['keeps']}" if rule else "")
            figures = "".join(_rejected(clip, jpeg, rule.get("column")) for clip, jpeg in shown)
            parts.append(
                f'<details open><summary>{escape(reason)}<span class="faint">{escape(told)}</span></summary>'
                f'<div class="clips">{figures}</div></details>'
            )
    return "".join(parts)


def _kept(pair: tuple[Clip, bytes]) -> str:
    clip, jpeg = pair
    caption = page.short(clip.caption) if clip.caption else '<span class="faint">no caption</span>'
    return page.figure(jpeg, f'<p dir="auto">{caption}</p>{page.faint(_which(clip))}')


def _rejected(clip: Clip, jpeg: bytes, column: str | None) -> str:
    """column: what the filter asks for comes first."""
    columns = dict.fromkeys([column, *SCORES] if column else SCORES)
    told = [f"{name}\u00a0{_value(value)}" for name in columns if (value := getattr(clip, name)) is not None]
    if clip.text_found:
        told.append(f"“{clip.text_found[: page.LONGEST]}”")
    if clip.duplicate_of:
        told.insert(len(told) if column else 0, f"looks like {clip.duplicate_of}")
    also = ", ".join(name for name in clip.reasons if name != clip.reason)
    measured = f"<b>{escape(told[0])}</b>{escape(''.join(f', {one}' for one in told[1:]))}" if told else ""
    more = page.faint(f"also {also}" if also else "") + page.faint(_which(clip))
    return page.figure(jpeg, f'<p class="measured" dir="auto">{measured}</p>{more}')


def _value(value: object) -> str:
    return page.number(value) if isinstance(value, int | float) else str(value)


def _which(clip: Clip) -> str:
    parts = [page.time(clip.duration), f"{clip.width}x{clip.height}", f"{clip.fps:.3g} fps"]
    if clip.category:
        parts.append(clip.category)
    return f"{', '.join(parts)}; {clip.source} at {_clock(clip.start)}; {clip.clip}"


def _clock(seconds: float) -> str:
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
