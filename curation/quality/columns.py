"""What the rows of clips say of bars, overlays, text, duplicates and broken files, held against what is true."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..rows import FAILED, Clip, Source
from .scenes import TOLERANCE, share
from .truth import Truth

SAME = 0.98  # what two boxes share, as a part of what either covers, for bars to be found
DIED = "the process that read it"  # so a source's problem says that its process died
Rows = Mapping[str, Sequence[Clip]]  # by file


def by_source(clips: Iterable[Clip]) -> Rows:
    found = defaultdict(list)
    for clip in clips:
        found[clip.source].append(clip)
    return found


def by_content(rows: Rows) -> Rows:
    """Of copies, the one that has the clips speaks for all."""
    return {clips[0].source_id: clips for clips in rows.values() if clips}


# -- bars, overlays, text ---------------------------------------------------------------------------------------------


def overlays(truths: Sequence[Truth], rows: Rows) -> dict[str, Any]:
    """Of the part of that name. A video without a clip says nothing, which is a miss where there is something."""
    plain = [t for t in truths if not t.overlays]  # nothing is laid over these
    logos, tiled = ("logo", "logo see-through"), ("watermark",)
    marked = {"logos": logos, "watermarks": tiled, "marks": logos + tiled}  # one column tells both
    found: dict[str, Any] = {"letterbox": letterbox(truths, rows)}
    for name, kinds in marked.items():
        there = [t for t in truths if any(overlay.kind in kinds for overlay in t.overlays)]
        found[name] = told_by(lambda clip: clip.overlay, there, plain, rows)
    there = [t for t in truths if t.text]
    found["text"] = told_by(lambda clip: clip.text, there, [t for t in truths if t.text is False], rows)
    found["text_by"] = sorted({clip.text_by for clips in rows.values() for clip in clips if clip.text_by})
    return found


def told_by(
    column: Callable[[Clip], float | None], there: Sequence[Truth], others: Sequence[Truth], rows: Rows
) -> dict[str, Any]:
    """A video has it where any of its clips does. cannot_tell: those of which no clip says it; they are missed, too."""
    values = {t.file: [column(clip) for clip in rows.get(t.file, ())] for t in (*there, *others)}
    said = {file: any(of_file) for file, of_file in values.items()}
    mute = {file for file, of_file in values.items() if all(value is None for value in of_file)}
    found, false = sum(said[t.file] for t in there), [t for t in others if said[t.file]]
    return {
        "found": found,
        "there": len(there),
        "false": len(false),
        "recall": share(found, len(there)),
        "precision": share(found, found + len(false)),
        "cannot_tell": {"there": sum(t.file in mute for t in there), "others": sum(t.file in mute for t in others)},
        "missed": dict(Counter(t.group for t in there if not said[t.file])),
        "false_in": dict(Counter(t.group for t in false)),
    }


def letterbox(truths: Sequence[Truth], rows: Rows) -> dict[str, Any]:
    """By clip: where the picture is between bars, is it what was cropped to; was anything cropped elsewhere?"""
    found, there, false = 0, 0, 0
    missed = Counter[str]()
    for truth in truths:
        whole = (0, 0, truth.width // 2 * 2, truth.height // 2 * 2)
        for clip in rows.get(truth.file, ()):
            middle, box = (
                (clip.start + clip.end) / 2,
                (clip.crop_left, clip.crop_top, clip.crop_width, clip.crop_height),
            )
            true = next((tuple(bar.box) for bar in truth.bars if bar.start <= middle < bar.end), whole)
            if true == whole:
                false += box != whole
            else:
                there += 1
                found += shared(box, true) >= SAME
                missed[truth.group] += shared(box, true) < SAME
    return {
        "found": found,
        "there": there,
        "false": false,
        "recall": share(found, there),
        "precision": share(found, found + false),
        "missed": dict(+missed),
    }


def shared(one: Sequence[int], other: Sequence[int]) -> float:
    """Of two boxes (left, top, width, height): what they share, as a part of what either covers."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, width) * max(0, height)
    return both / max(one[2] * one[3] + other[2] * other[3] - both, 1)


# -- duplicates -------------------------------------------------------------------------------------------------------


def duplicates(truths: Sequence[Truth], clips: Sequence[Clip]) -> dict[str, Any]:
    """clips: marked. Of each family all but one are to be marked, each with one of its own family."""
    truth_of, file_of = {t.file: t for t in truths}, {clip.clip: clip.source for clip in clips}
    rows, missed, false_in = by_source(clips), Counter[str](), Counter[str]()
    found, false = 0, 0
    left: dict[str, list[str]] = defaultdict(list)  # by family: how those came about that are not marked
    for truth in truths:
        of = {truth_of[file_of[clip.duplicate_of]].family for clip in rows.get(truth.file, ()) if clip.duplicate_of}
        if of - {truth.family} or (of and not truth.family):
            false += 1
            false_in[truth.group] += 1
        elif of:
            found += 1
        elif truth.family:
            left[truth.family].append(truth.how)
    there = sum(bool(t.family) for t in truths) - len(left)
    for ways in left.values():
        ways.remove("original" if "original" in ways else ways[0])  # the one that stays; which, is not told apart here
        missed.update(ways)
    return {
        "found": found,
        "there": there,
        "false": false,
        "recall": share(found, there),
        "missed": dict(missed),
        "false_in": dict(false_in),
    }


# -- files ------------------------------------------------------------------------------------------------------------


def files(truths: Sequence[Truth], sources: Sequence[Source], passed_over: Iterable[str], rows: Rows) -> dict[str, Any]:
    """accounted: in one way or the other something is said of every file. What is read is as expected where scenes end
    where they do."""
    told, passed = {source.source: source for source in sources}, set(passed_over)
    rows = by_content(rows)
    unexpected = {}
    for truth in truths:
        source = told.get(truth.file)
        if source is None:
            if truth.expected != "failed":
                unexpected[truth.file] = "it was passed over" if truth.file in passed else "nothing is known of it"
            continue
        why = _unexpected(truth, source, rows.get(source.source_id, ()))
        if why:
            unexpected[truth.file] = why
    return {
        "there": len(truths),
        "accounted": sum(t.file in told or t.file in passed for t in truths),
        "crashed": sum(DIED in source.problem for source in sources),
        "as_expected": len(truths) - len(unexpected),
        "unexpected": unexpected,
    }


def _unexpected(truth: Truth, source: Source, clips: Sequence[Clip]) -> str:
    """What is wrong, "" if nothing."""
    if truth.expected == "failed":
        return "" if source.status == FAILED else "it was read, and holds nothing"
    if source.status == FAILED:
        return f"it failed: {source.problem}"
    if truth.expected == "damaged":
        return "" if source.problem or source.damaged else "nothing is said of its damage"
    if source.width and (source.width, source.height) != (truth.width, truth.height):
        return f"{source.width}x{source.height}, which is {truth.width}x{truth.height}"
    begun = sorted({0.0, *(span.end for span in truth.transitions)})
    found = sorted(clip.start for clip in clips)
    near = TOLERANCE / truth.rate
    if truth.frames > 2 and (
        len(found) != len(begun) or any(abs(a - b) > near for a, b in zip(found, begun, strict=True))
    ):
        return f"scenes begin at {_list(found)} seconds; expected {_list(begun)}"
    return ""


def _list(seconds: Iterable[float]) -> str:
    return ", ".join(f"{second:.3f}" for second in seconds)
