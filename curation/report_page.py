"""report.html: what came of a curation, in numbers and in pictures; one file that needs nothing beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape

from ..pipelines import page
from .report_pictures import Pictures, kept_clips, rejected_clips

# What a score is, on its card.
ABOUT = {
    "motion": "picture lengths a second",
    "sharpness": "variance of the Laplacian",
    "brightness": "mean luma",
    "contrast": "deviation of luma",
    "overlay": "part of the picture under what stands still",
    "text": "part of the picture under standing text",
    "nsfw": "0 to 1",
}
PLACE = "report.json and sources.parquet"  # where a list on the page is whole

STYLE = """
:root { --lost: #e0a184; --other: #c9c6bc; --soft: #f1efe9; }
@media (prefers-color-scheme: dark) { :root { --lost: #9c5f44; --other: #53565e; --soft: #26282d; } }
h2 { margin: 44px 0 12px; } h2 + p { margin-top: -8px; }
.heads { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 24px; margin: 28px 0 32px; }
.heads b { display: block; font-size: 34px; font-weight: 600; line-height: 1.15; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }
.heads span { display: block; } .heads .faint { font-size: 13px; }
.notes { border-left: 3px solid var(--other); padding: 2px 0 2px 14px; margin: 20px 0; max-width: 900px; }
.funnel { padding: 18px 22px; } .funnel p { font-size: 13px; margin-top: 14px; max-width: 900px; }
.row { display: grid; grid-template-columns: 270px 1fr 96px 70px 190px; gap: 0 14px; align-items: center;
  padding: 3px 0; font-variant-numeric: tabular-nums; }
.row.total { font-weight: 600; } .row.first { margin-top: 16px; } .row.first:first-child { margin-top: 0; }
.row .n, .row .share { text-align: right; } .row .more { color: var(--faint); font-size: 13px; font-weight: 400; }
.row .what { overflow-wrap: anywhere; } .row .what .faint { font-size: 13px; margin-left: 6px; }
.track { display: flex; height: 18px; border-radius: 3px; background: var(--soft); overflow: hidden; }
.row.total .track { height: 26px; }
.track i { background: var(--bar); flex: none; } .track i.lost { background: var(--lost); }
.track i.other { background: var(--other); } .track i.rest { opacity: 0.4; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px;
  background: var(--bar); }
.key.lost { background: var(--lost); } .key.other { background: var(--other); }
.key.paper { height: 4px; background: var(--other); vertical-align: 3px; }
.mosaic { columns: 370px; column-gap: 16px; } .mosaic .card { break-inside: avoid; margin: 0 0 16px; }
.card h3 { margin-bottom: 10px; } .card p { font-size: 13px; } .card td { padding-top: 2px; padding-bottom: 2px; }
td.two { width: 42%; } td.two div + div { background: var(--other); height: 4px; margin-top: 2px; }
th { font-weight: 400; color: var(--faint); text-align: right; padding: 0 0 4px 8px; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
.work td.name { white-space: normal; overflow-wrap: anywhere; } .work td.bar { width: 30%; }
tr.sum td { border-top: 1px solid var(--line); font-weight: 600; }
.scores { grid-template-columns: repeat(auto-fit, minmax(212px, 1fr)); }
.clips { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); align-items: start; }
h2 + p + .clips { margin-top: 12px; } figcaption p { font-size: 14px; margin: 0 0 2px; }
figcaption .measured { font-size: 13px; } figcaption .faint { font-size: 12px; } .measured b { font-weight: 600; }
details { margin: 18px 0; } summary { cursor: pointer; font-size: 15px; font-weight: 600; padding: 4px 0 10px; }
summary .faint { font-weight: 400; font-size: 13px; margin-left: 6px; }
@media (max-width: 760px) {
  body { padding: 16px; }
  .heads { grid-template-columns: repeat(2, 1fr); gap: 18px 12px; } .heads b { font-size: 26px; }
  .funnel { padding: 12px 14px; }
  .row { grid-template-columns: 1fr auto 64px; padding: 6px 0; } .row .track { grid-row: 2; grid-column: 1 / -1; }
  .row .more { grid-row: 3; grid-column: 1 / -1; } .row.first .share { display: none; }
  .row.first .n { grid-column: 2 / -1; }
}
"""


def write_report(path: str | os.PathLike, title: str, facts: Mapping, kept: Pictures, rejected: Pictures) -> None:
    """Written whole or not at all. Raises OSError.

    facts: of report.facts. kept, rejected: clips to look at, each with a JPEG, such as page.strip makes.
    """
    body = [_heads(facts), _said(facts), "<h2>From sources to clips</h2>", _funnel(facts)]
    if facts["kept"]:
        body += ["<h2>What is kept</h2>", f'<div class="mosaic">{_statistics(facts)}</div>']
    if facts["scores"]:
        told = "Pale: all clips. Blue: those that are kept. Clips of value 0 are told, not drawn."
        body.append(f'<h2>Scores</h2>{page.faint(told)}<div class="cards scores">{_scores(facts)}</div>')
    if kept:
        shown = f"{len(kept):,} of {facts['kept']:,} clips"
        body.append(f"<h2>Kept clips</h2>{page.faint(shown)}{kept_clips(kept)}")
    if rejected:
        told = "By the first filter that rejects them. Look whether it is right."
        body.append(f"<h2>Rejected clips</h2>{page.faint(told)}{rejected_clips(facts, rejected)}")
    if work := _work(facts):
        body.append(f'<h2>The work</h2><div class="mosaic work">{work}</div>')
    if failed := [(row["source"], row["problem"]) for row in facts["failed"]]:
        listed = page.listing(f"{len(failed):,} of {facts['sources']:,}", failed, PLACE)
        body.append(f"<h2>Failed sources</h2>{listed}")
    page.write(path, title, _about(facts), "\n".join(body), page.COLUMNS + STYLE)


def _about(facts: Mapping) -> str:
    engine, parts = facts["engine"], []
    if engine.get("runner"):
        parts.append(f"runner {engine['runner']}")
    if engine.get("workers"):
        parts.append(f"{engine['workers']} worker{'s' * (engine['workers'] != 1)}")
    if engine.get("wall_seconds"):
        parts.append(page.time(engine["wall_seconds"]))
    if facts["parallelism"] is not None:
        parts.append(f"{facts['parallelism']:,g} cores busy on average")
    if engine.get("shard") and len(parts) > 1:
        parts.append(f"all that of job {engine['shard']}, the last to be done")
    return ", ".join(parts)


def _heads(facts: Mapping) -> str:
    """The numbers that one looks for first."""
    seconds, speed = facts["seconds"], facts["source_hours_per_core_hour"]["all"]
    not_read = [f"{n:,} {what}" for n, what in ((len(facts["failed"]), "failed"), (facts["copies"], "copies")) if n]
    heads = [
        (f"{facts['sources']:,}", "sources", ", ".join(not_read) or "all of them read"),
        (f"{facts['scenes']:,}", "scenes", f"{facts['too_short']:,} of them too short"),
        (f"{facts['clips']:,}", "clips", f"{page.time(seconds['clips'])} of {page.time(seconds['read'])} read"),
        (f"{facts['kept']:,}", "kept", f"{_share(facts['kept'], facts['clips'])} of clips"),
        (page.time(seconds["kept"]), "of kept video", f"{_share(seconds['kept'], seconds['read'])} of what was read"),
    ]
    if speed is not None:
        heads.append((page.number(speed), "source-hours", "an hour of one core"))
    cells = (
        f'<div><b>{escape(n)}</b><span>{escape(name)}</span><span class="faint">{escape(more)}</span></div>'
        for n, name, more in heads
    )
    return f'<div class="heads">{"".join(cells)}</div>'


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _said(facts: Mapping) -> str:
    """What must be known before the numbers are read: that there are none, and why; then the notes."""
    failed, sources = len(facts["failed"]), facts["sources"]
    told = ""
    if not sources:
        told = "There was no source."
    elif failed + facts["copies"] == sources:
        told = f"No source could be read: {failed:,} of {sources:,} failed, for the reasons below."
    elif not facts["clips"]:
        told = f"There is no clip: {facts['too_short']:,} of {facts['scenes']:,} scenes are too short."
    elif not facts["kept"]:
        told = f"No clip is kept: filters reject all {facts['clips']:,}."
    warning = f'<p class="warn">{escape(told)}</p>' if told else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in facts["notes"])
    return warning + (f'<div class="notes">{notes}</div>' if notes else "")


# -- the funnel -------------------------------------------------------------------------------------------------------


def _funnel(facts: Mapping) -> str:
    """Sources, scenes and clips, each beside all of its kind; then what each filter takes away of what is left."""
    sources, scenes, clips = facts["sources"], facts["scenes"], facts["clips"]
    failed, copies = len(facts["failed"]), facts["copies"]
    parts = [("", sources - failed - copies), ("other", copies), ("lost", failed)]
    told = f"{failed:,} failed, {copies:,} copies"
    rows = [_row("sources", f"{sources:,}", "", told, parts, sources, "total first")]
    short = facts["too_short"]
    parts = [("", scenes - short), ("lost", short)]
    rows.append(_row("scenes", f"{scenes:,}", "", f"{short:,} too short", parts, scenes, "total first"))
    rows.append(_row("clips", f"{clips:,}", "", "", [("", clips)], clips, "total first"))
    left = clips
    for name, lost in facts["reasons"].items():
        left -= lost
        told = f"{facts['all_reasons'][name]:,} in all, {facts['alone'][name]:,} alone" if lost else ""
        count = f"−{lost:,}" if lost else "0"
        parts = [("rest", left), ("lost", lost)]
        keeps = facts["filters"].get(name, {}).get("keeps", "")
        rows.append(_row(name, count, _share(lost, clips), told, parts, clips, about=keeps))
    kept = facts["kept"]
    told = f"of {facts['sources_kept']:,} sources" if kept else ""
    rows.append(_row("kept", f"{kept:,}", _share(kept, clips), told, [("", kept)], clips, "total"))
    legend = (
        '<p class="faint"><span class="key"></span>goes on &ensp;<span class="key lost"></span>is lost'
        + (' &ensp;<span class="key other"></span>the same bytes as another source' if copies else "")
        + "<br>A scene longer than a clip may be gives several. Filters are asked in turn; a clip counts where the"
        " first one rejects it. In all: whatever else rejects it. Alone: only this filter does.</p>"
    )
    return f'<div class="card funnel">{"".join(rows)}{legend}</div>'


def _row(
    what: str,
    count: str,
    share: str,
    more: str,
    parts: Sequence[tuple[str, float]],
    whole: float,
    kind: str = "",
    about: str = "",
) -> str:
    bars = "".join(
        f'<i{f" class={name!r}" if name else ""} style="width:{100 * n / whole:.2f}%"></i>'
        for name, n in parts
        if n > 0
    )
    told = f' <span class="faint">{escape(about)}</span>' if about else ""
    return (
        f'<div class="row {kind}"><span class="what">{escape(what)}{told}</span><span class="track">{bars}</span>'
        f'<span class="n">{escape(count)}</span><span class="share">{escape(share)}</span>'
        f'<span class="more">{escape(more)}</span></div>'
    )


# -- statistics -------------------------------------------------------------------------------------------------------


def _statistics(facts: Mapping) -> str:
    found = facts["statistics"]
    videos, words = found["videos"], found["caption_words"]["text"]
    about = f"{page.time(videos['seconds'])} in all; {page.spread(videos['duration'], ' s')}"
    cards = [page.columns("Durations, seconds", videos["duration_histogram"], about)]
    if "histogram" in words:
        empty = f", {words['empty']:,} without" if words["empty"] else ""
        about = f"{words['different']:,} different{empty}; {page.spread(words)}"
        cards.append(page.columns("Words of a caption", words["histogram"], about))
    if facts["categories"]:
        cards.append(_categories(facts["categories"]))
    cards += [
        page.card("Sizes", videos["size"], told=_count),
        page.card("Sizes of their sources", found["source_size"], told=_count),
        page.card("Frames a second", videos["frame_rate"], told=_count),
        page.card("How they begin", found["begins_by"], told=_count),
        page.card("How they end", found["ends_by"], "split: the scene goes on in another clip", told=_count),
    ]
    return "".join(cards)


def _count(n: float) -> str:
    return f"{n:,}"


def _categories(found: Mapping[str, Mapping]) -> str:
    """Beside the paper's, where they are its."""
    paper = all("paper" in row for row in found.values())
    most = max(max(row["per_cent"], row.get("paper", 0)) for row in found.values()) or 1
    rows = []
    for name, row in found.items():
        bars = f'<div style="width:{100 * row["per_cent"] / most:.1f}%"></div>'
        counts = f'<td class="count">{row["per_cent"]:.1f} %</td>'
        if paper:
            bars += f'<div style="width:{100 * row["paper"] / most:.1f}%"></div>'
            counts += f'<td class="count faint">{row["paper"]:.1f} %</td>'
        rows.append(f'<tr><td class="name">{escape(name)}</td><td class="bar two">{bars}</td>{counts}</tr>')
    about = (
        '<p class="faint"><span class="key"></span>here &ensp;<span class="key paper"></span>'
        "HD-VG-130M (VideoFactory, Table 8)</p>"
    )
    return f'<div class="card"><h3>Categories</h3><table>{"".join(rows)}</table>{about if paper else ""}</div>'


def _scores(facts: Mapping) -> str:
    cards = []
    for name, found in facts["scores"].items():
        rows = found["histogram"]
        told = [ABOUT[name], f"median {page.number(found['clips']['median'])}"]
        if found["kept"]:
            told.append(f"of kept ones {page.number(found['kept']['median'])}")
        if found["zero"]:
            told.append(f"0 in {found['zero']:,} clips")
        if found["measured"] < facts["clips"]:
            told.append(f"measured of {found['measured']:,}")
        cards.append(page.columns(name, [row[:3] for row in rows], "; ".join(told), [row[3] for row in rows]))
    return "".join(cards)


# -- the work ---------------------------------------------------------------------------------------------------------


def _work(facts: Mapping) -> str:
    cards, spent = [], facts["core_seconds"]
    if spent:
        most = max(spent.values()) or 1
        speeds = facts["source_hours_per_core_hour"]["by_stage"]
        lines = [
            f'<tr><td class="name">{escape(stage)}</td><td class="bar"><div style="width:{100 * n / most:.1f}%"></div>'
            f'</td><td class="count">{page.time(n)}</td><td class="count">{_or_none(speeds[stage])}</td></tr>'
            for stage, n in spent.items()
        ]
        total = sum(spent.values())
        lines.append(
            f'<tr class="sum"><td class="name">in all</td><td></td><td class="count">{page.time(total)}</td>'
            f'<td class="count">{_or_none(facts["source_hours_per_core_hour"]["all"])}</td></tr>'
        )
        head = "<tr><th>stage</th><th></th><th>of cores</th><th>source-hours<br>a core-hour</th></tr>"
        cards.append(f'<div class="card"><h3>Time by stage</h3><table>{head}{"".join(lines)}</table></div>')
    if facts["slowest"]:
        rows = [(row["source"], row["seconds"]) for row in facts["slowest"]]
        cards.append(page.card("Slowest sources", rows, told=page.time))
    damaged = facts["damaged"]
    if damaged["sources"]:
        told = f"{damaged['packets']:,} packets of {damaged['sources']:,} sources could not be decoded whole."
        cards.append(f'<div class="card"><h3>Damage</h3>{page.faint(told)}</div>')
    return "".join(cards)


def _or_none(speed: float | None) -> str:
    return "" if speed is None else page.number(speed)
