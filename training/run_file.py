"""Run files: a .toml, a preset by name or a checkpoint's run.json -> `RunConfig`, checked."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

from ..errors import TrainingError, reason, some
from .checks import check
from .config import RunConfig, StageConfig
from .settings import build, check_plain, known, merged, override

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


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
    values, own = dict(values), [f.name for f in fields(StageConfig)]
    resolved = values.pop("stages", None)
    shared = {name: values.pop(name) for name in own if name in values}
    stages = values.pop("stage", [{}]) if resolved is None else resolved
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise TrainingError("stage is no list of tables; write [[stage]].")
    known(values, [f.name for f in fields(RunConfig) if f.name != "stages"] + own + ["stage"], "")
    built = []
    for i, stage in enumerate(stages, start=1):
        where = f"stage.{i}." if len(stages) > 1 else ""
        known(stage, own, where)
        name = {"name": f"stage{i}" if len(stages) > 1 else "train"}
        built.append(build(StageConfig, {**name, **merged(shared, stage)}, where))
    # A stage of no steps is passed over; a run of none is refused by the check.
    config = replace(build(RunConfig, values), stages=tuple(s for s in built if s.optim.steps) or tuple(built))
    check(config)
    return config
