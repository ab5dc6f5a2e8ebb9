"""Which clips are kept: predicates on columns of clips.parquet, by name. Nothing is deleted; a row says why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields

from ..errors import SettingsError, nearest
from .config import Filter
from .rows import Clip

COLUMNS = tuple(f.name for f in fields(Clip) if f.name not in ("hashes", "kept", "reason", "reasons", "shard", "bytes"))
LATE = ("caption", "category", "duplicate_of")  # known once the other filters have spoken
DUPLICATE = "duplicate"  # the reason of a clip that looks like another one, which no filter needs to be written for


def check_filters(filters: Mapping[str, Filter | None]) -> None:
    """Raises SettingsError with one sentence."""
    for name, rule in filters.items():
        if rule is None:
            continue
        if rule.column not in COLUMNS:
            near = nearest(rule.column, COLUMNS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(COLUMNS)}."
            raise SettingsError(
                f"filters.{name}.column is {rule.column!r}, which is no column of clips.parquet; {hint}"
            )
        if rule.missing not in ("keep", "reject"):
            raise SettingsError(f"filters.{name}.missing is {rule.missing!r}; expected keep or reject.")
        if rule.min is None and rule.max is None and rule.equals is None and rule.missing == "keep":
            raise SettingsError(f"filters.{name} says nothing; give it min, max or equals.")
        if rule.min is not None and rule.max is not None and rule.min > rule.max:
            raise SettingsError(f"filters.{name}: min {rule.min:g} is above max {rule.max:g}, so nothing is kept.")


def early(filters: Mapping[str, Filter | None]) -> dict[str, Filter | None]:
    """Those that can speak as soon as a clip is measured."""
    return {name: rule for name, rule in filters.items() if rule is None or rule.column not in LATE}


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
