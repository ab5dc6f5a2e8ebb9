"""Which clips are kept: predicates on columns of clips.parquet, by name. Nothing is deleted; a row says why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields

from ..errors import SettingsError, nearest, shown
from .config import Filter
from .rows import Clip

AFTERWARDS = ("duplicate_of", "kept", "reason", "reasons", "shard", "bytes")  # known once the filters have spoken
# What a filter may read, and whether it is a "number" or a "text".
COLUMNS = {
    f.name: "text" if str(f.type).startswith("str") else "number"
    for f in fields(Clip)
    if f.name not in (*AFTERWARDS, "hashes")
}
LATE = ("caption", "category")  # known once the other filters have spoken
DUPLICATE = "duplicate"  # the reason of a clip that looks like another one, which no filter needs to be written for


def check_filters(filters: Mapping[str, Filter | None]) -> None:
    """Raises SettingsError with one sentence."""
    for name, rule in filters.items():
        check_name(name)
        if rule is not None:
            _check_column(name, rule, filters)
            _check_values(name, rule)


def check_name(name: str) -> None:
    """Raises SettingsError with one sentence."""
    if not name.strip():
        raise SettingsError("a filter has no name; call it something, such as filters.size.column=crop_height.")
    if name in (DUPLICATE, "duplicates"):
        raise SettingsError(
            f"filters.{name} cannot be: duplicates are no filter's; keep them all with duplicates.remove=false, or say "
            "what is alike with duplicates.max_distance."
        )


def check_switched_off(name: str, known: Iterable[str]) -> None:
    """known: the filters that there are. Raises SettingsError with one sentence."""
    check_name(name)
    if name not in (known := list(known)):
        near = nearest(name, known)
        hint = f"did you mean filters.{near}?" if near else f"there are {', '.join(known) or 'none'}."
        raise SettingsError(f"filters.{name} is switched off, and there is no such filter; {hint}")


def _check_column(name: str, rule: Filter, filters: Iterable[str]) -> None:
    column = rule.column
    if column in COLUMNS:
        return
    if not column:
        near = nearest(name, [other for other in filters if other != name])
        hint = f"did you mean filters.{near}?" if near else f"known: {', '.join(COLUMNS)}."
        raise SettingsError(f"filters.{name} has no column; {hint}")
    if column in AFTERWARDS:
        raise SettingsError(
            f"filters.{name}.column is {column!r}, which is known only once the filters have spoken; give another."
        )
    near = nearest(column, COLUMNS)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(COLUMNS)}."
    raise SettingsError(f"filters.{name}.column is {shown(column)}, which no filter can read; {hint}")


def _check_values(name: str, rule: Filter) -> None:
    kind, equals = COLUMNS[rule.column], rule.equals
    if rule.missing not in ("keep", "reject"):
        raise SettingsError(f"filters.{name}.missing is {rule.missing!r}; expected keep or reject.")
    if rule.min is None and rule.max is None and equals is None and rule.missing == "keep":
        raise SettingsError(f"filters.{name} says nothing; give it min, max or equals.")
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise SettingsError(f"filters.{name}: min {rule.min:g} is above max {rule.max:g}, so nothing is kept.")
    if kind == "text" and not (rule.min is None and rule.max is None):
        raise SettingsError(f"filters.{name} has min or max, and {rule.column} is a text; give it equals.")
    if equals is None:
        return
    choices = equals if isinstance(equals, list | tuple) else [equals]
    right = str if kind == "text" else (int, float)
    if not choices or any(isinstance(one, bool) or not isinstance(one, right) for one in choices):
        example = "'\"108\"'" if kind == "text" else "108"
        raise SettingsError(
            f"filters.{name}.equals is {shown(equals)}, and {rule.column} is a {kind}; give a {kind} or several, "
            f"such as --set filters.{name}.equals={example}."
        )


def early(filters: Mapping[str, Filter | None]) -> dict[str, Filter | None]:
    """Those that can speak as soon as a clip is measured."""
    return {name: rule for name, rule in filters.items() if rule is None or rule.column not in LATE}


def certain(filters: Mapping[str, Filter | None]) -> dict[str, Filter | None]:
    """Those of them whose word holds while other clips of the source are still to come, which may tell of marks on this
    one: its overlay can only grow."""
    return {
        name: rule
        for name, rule in early(filters).items()
        if rule is None
        or rule.column != "overlay"
        or (rule.min is None and rule.equals is None and rule.missing == "keep")
    }


def apply(filters: Mapping[str, Filter | None], clips: Iterable[Clip]) -> None:
    """Write into each clip whether it is kept, and which filters reject it, in the order of the run file."""
    rules = [(name, rule) for name, rule in filters.items() if rule is not None]
    for clip in clips:
        clip.reasons = tuple(name for name, rule in rules if not passes(rule, getattr(clip, rule.column)))
        clip.reason = clip.reasons[0] if clip.reasons else ""
        clip.kept = not clip.reasons


def passes(rule: Filter, value: object) -> bool:
    """Whether a value is one that the filter keeps."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return rule.missing == "keep"
    if rule.equals is not None and value not in (
        rule.equals if isinstance(rule.equals, list | tuple) else (rule.equals,)
    ):
        return False
    if isinstance(value, bool) or not isinstance(value, int | float):
        return rule.min is None and rule.max is None
    return (rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max)
