"""Run files of a curation: a .toml or a preset by name, with --set on top -> `CurationConfig`, checked."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import SettingsError, nearest, reason, shown, some
from ..files import no_file
from ..settings import build, check_plain, merged, override
from .config import MOST_SECONDS, CurationConfig
from .filters import check_filters, check_switched_off

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # installed for Python 3.10 alone

PRESETS = Path(__file__).parent / "presets"
DEFAULT = "small"
CHOICES = {
    "scenes.detector": ("auto", "content", "transnetv2"),
    "clips.encode": ("all", "kept"),
    "clips.method": ("transcode", "copy"),
    "clips.speed": ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
    "scores.text": ("auto", "rapidocr", "gradient", "none"),
    "scores.nsfw": ("none", "open_nsfw"),
    "captions.kind": ("none", "column", "command", "transformers"),
    "categories.kind": ("none", "column", "clip"),
    "engine.runner": ("inline", "processes", "ray"),
}
NEED_KIND = (  # what says nothing without a kind, and the kind that was meant
    ("captions", "path", "transformers"),
    ("captions", "command", "command"),
    ("categories", "path", "clip"),
)
RANGES = {  # from, to
    "scenes.margin": (0.0, 5.0),
    "scenes.cut_margin": (0.0, 5.0),
    "clips.min_seconds": (0.2, MOST_SECONDS),
    "clips.max_seconds": (0.2, MOST_SECONDS),
    "clips.height": (16, 8192),
    "clips.crf": (0, 51),
    "scores.rate": (0.5, 30.0),
    "duplicates.max_distance": (0.0, 32.0),
    "shards.clips": (1, 1_000_000),
    "shards.megabytes": (1, 1_000_000),
    "engine.workers": (0, 4096),
    "engine.timeout": (1.0, 86400.0),
    "engine.retries": (0, 10),
}


def presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(name: str | None, overrides: Iterable[str] = ()) -> CurationConfig:
    """A preset by name, or a run file. Raises SettingsError with one sentence."""
    path = Path(name or DEFAULT)
    if not path.suffix and (PRESETS / f"{path}.toml").exists():
        path = PRESETS / f"{path}.toml"
    elif (told := no_file(path)) is not None:
        raise SettingsError(f"{told}; give a .toml file or one of {', '.join(presets())}.")
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        told = "it is nested too deep" if isinstance(error, RecursionError) else some([reason(error)])
        raise SettingsError(f"{path} is not valid TOML: {told}.") from error
    if "preset" in values:
        values = _onto(values)
    else:
        _check_off(values, ())
    for text in overrides:
        known = list(_filters(values))
        override(values, text)
        _check_off(values, known)
    return from_dict(values)


def _onto(values: dict) -> dict:
    """A run file's own settings on those of the preset it names."""
    name = values.pop("preset")
    if name not in presets():
        raise SettingsError(f"preset is {name!r}; expected one of {', '.join(presets())}.")
    base = tomllib.loads((PRESETS / f"{name}.toml").read_text("utf-8"))
    _check_off(values, _filters(base))
    return merged(base, values)


def _filters(values: dict) -> dict:
    filters = values.get("filters", {})
    return filters if isinstance(filters, dict) else {}


def _is_off(rule: object) -> bool:
    return rule is None or (isinstance(rule, str) and rule.strip().lower() == "none")


def _check_off(values: dict, known: Iterable[str]) -> None:
    """Refuse to switch off what is none of the known filters."""
    for name, rule in _filters(values).items():
        if _is_off(rule):
            check_switched_off(name, known)


def from_dict(values: dict) -> CurationConfig:
    """From plain data. Raises SettingsError with one sentence."""
    check_plain(values)
    if filters := _filters(values):
        off = {name: None if _is_off(rule) else rule for name, rule in filters.items()}
        values = {**values, "filters": off}
    config = build(CurationConfig, values)
    for table, name, kind in NEED_KIND:
        given = values.get(table, {})
        if "kind" not in given and getattr(getattr(config, table), name):
            raise SettingsError(f"{table}.{name} is given and {table}.kind is not; set {table}.kind to {kind}.")
    for name, known in CHOICES.items():
        value = _value(config, name)
        if value not in known:
            near = nearest(value, known)
            hint = f"did you mean {near!r}?" if near else f"expected one of {', '.join(known)}."
            raise SettingsError(f"{name} is {shown(value)}; {hint}")
    for name, (least, most) in RANGES.items():
        value = _value(config, name)
        if value is not None and not least <= value <= most:
            raise SettingsError(f"{name} is {value:g}; expected {least:g} to {most:g}.")
    clips = config.clips
    if clips.min_seconds > clips.max_seconds:
        raise SettingsError(
            f"clips.min_seconds {clips.min_seconds:g} is above clips.max_seconds {clips.max_seconds:g}, so there "
            "would be no clip; give one at most as long as the other."
        )
    check_filters(config.filters)
    return config


def _value(config: CurationConfig, name: str):
    table, _, field = name.partition(".")
    return getattr(getattr(config, table), field)


def makes_rows(config: CurationConfig) -> dict:
    """The settings that decide what the rows and clips of a source are: those of a set cannot change half-way."""
    values = config.to_dict()
    tables = {name: values[name] for name in ("scenes", "clips", "scores")}
    tables["clips"].pop("encode")  # what is missing is made when it is asked for
    return tables
