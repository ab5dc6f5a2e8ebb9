"""Run files: a .toml, a preset by name or a checkpoint's run.json -> `RunConfig`, checked."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

from ..errors import TrainingError, reason, some
from ..settings import build, check_plain, known, merged, override
from .checks import check
from .config import LossConfig, RunConfig, StageConfig, UpscalerLossConfig, UpscalerStageConfig, VideoStageConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # installed for Python 3.10 alone

PRESETS = Path(__file__).parent / "presets"
LOSSES = {VideoStageConfig: LossConfig, UpscalerStageConfig: UpscalerLossConfig}
OF = {VideoStageConfig: "video networks", UpscalerStageConfig: "super-resolution"}


def load_run(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run file, a preset by name ("demo"), or a checkpoint's run.json, with `a.b=value` overrides on top."""
    path = Path(path)
    if not path.suffix and (PRESETS / f"{path}.toml").exists():
        path = PRESETS / f"{path}.toml"
    try:
        text = path.read_text("utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise TrainingError(
            f"{path} cannot be read ({error.strerror}); give a .toml file or one of {names}."
        ) from error
    except (ValueError, RecursionError) as error:
        told = "it is nested too deep" if isinstance(error, RecursionError) else some([reason(error)])
        raise TrainingError(f"{path} is not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {told}.") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} holds no settings; give a run file.")
    for text in overrides or []:
        override(values, text)
    check_plain(values)
    return from_dict(values)


def from_dict(values: dict) -> RunConfig:
    """From a run file's plain data, or from `RunConfig.to_dict`'s. Raises TrainingError with one sentence."""
    values = dict(values)
    resolved = values.pop("stages", None)
    own = list(dict.fromkeys(f.name for kind in (VideoStageConfig, UpscalerStageConfig) for f in fields(kind)))
    shared = {name: values.pop(name) for name in own if name in values}
    stages = values.pop("stage", [{}]) if resolved is None else resolved
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise TrainingError("stage is no list of tables; write [[stage]].")
    known(values, [f.name for f in fields(RunConfig) if f.name != "stages"] + own + ["stage"], "")
    built = []
    for i, stage in enumerate(stages, start=1):
        where = f"stage.{i}." if len(stages) > 1 else ""
        known(stage, own, where)
        if resolved is None:
            stage = merged(shared, stage)
        kind = UpscalerStageConfig if stage.get("upscaler") is not None else VideoStageConfig
        _check_kind(stage if resolved is None else shared, kind, where)
        if resolved is not None:  # written by a run, maybe when a stage had the tables of both; --set comes on top
            stage = merged(_own(stage, kind), shared)
        built.append(build(kind, {"name": f"stage{i}" if len(stages) > 1 else "train", **stage}, where))
    # A stage of no steps is passed over; a run of none is refused by the check.
    config = replace(build(RunConfig, values), stages=tuple(s for s in built if s.optim.steps) or tuple(built))
    check(config)
    return config


def _check_kind(values: dict, kind: type[StageConfig], where: str) -> None:
    """Refuse settings of the other kind of stage."""
    other = UpscalerStageConfig if kind is VideoStageConfig else VideoStageConfig
    foreign = [name for name in values if name not in _names(kind)]
    loss = values.get("loss")
    foreign += [f"loss.{name}" for name in (loss if isinstance(loss, dict) else ()) if name in _names(LOSSES[other])]
    if foreign:
        remedy = "add [upscaler]" if kind is VideoStageConfig else "leave it out of super-resolution"
        raise TrainingError(f"{where}{foreign[0]} is of {OF[other]}; {remedy}.")


def _own(values: dict, kind: type[StageConfig]) -> dict:
    """Of a stage that has the tables of both kinds, its own."""
    values = {name: value for name, value in values.items() if name in _names(kind)}
    loss = values.get("loss")
    if isinstance(loss, dict):
        values["loss"] = {name: value for name, value in loss.items() if name in _names(LOSSES[kind])}
    return values


def _names(kind: type) -> list[str]:
    return [f.name for f in fields(kind)]
