"""What a run must have in common with the one whose checkpoint it goes on from: all but its pace, place and machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

from ..errors import TrainingError
from .checkpoint import Checkpoint
from .config import RunConfig
from .run_file import from_dict


def check_same(found: Checkpoint, config: RunConfig, origin: Mapping[str, str], encoders: Mapping[str, str]) -> None:
    """Refuse to go on with another run's checkpoint."""
    if found.facts["origin"] != origin:
        raise TrainingError(
            f"{found.path.parent.parent} was begun with other weights ({', '.join(found.facts['origin']) or 'none'}); "
            f"restore start, or choose another output.folder."
        )
    releases = found.config["start"].get("release"), config.start.release
    if None not in releases and releases[0] != releases[1]:
        raise TrainingError(
            f"{found.path.parent.parent} was begun with start.release {releases[0]}, here it is {releases[1]}; restore "
            "it, or choose another output.folder."
        )
    begun = from_dict(found.config).to_dict()  # an older one lacks settings that came later
    saved, now = _recipe(begun, found.stage), _recipe(config.to_dict(), found.stage)
    for name, fingerprint in found.facts.get("encoders", {}).items():
        key = f"encoders.{name}"
        if fingerprint == encoders[name]:  # the same, wherever it lies now
            saved[key] = now[key]
        elif saved[key] == now[key]:
            raise TrainingError(
                f"{found.path.parent.parent} holds a run with another {key}: what {now[key]} holds has changed since; "
                "choose another output.folder, or put back what was there."
            )
    for name in {**saved, **now}:
        if saved.get(name) != now.get(name):
            raise TrainingError(
                f"{found.path.parent.parent} holds a run with another {name} ({saved.get(name)}, here "
                f"{now.get(name)}); choose another output.folder, or restore that setting."
            )
    stage = config.stages[found.stage]
    if found.facts["stage_step"] > stage.optim.steps:
        raise TrainingError(
            f"{found.path.parent.parent} has done {found.facts['stage_step']} steps of stage {stage.name!r} already; "
            f"optim.steps {stage.optim.steps} must be at least that."
        )


def changed_data(before: Mapping, now: Mapping) -> list[str]:
    """What of a run's data changed since its checkpoint, by source: "the captions of mine"."""
    found = []
    for name, fingerprints in now.items():
        old = before.get(name, {})
        old = {"clips": old} if isinstance(old, str) else old  # of checkpoints from before there were more
        changed = [kind for kind, is_now in fingerprints.items() if kind in old and old[kind] != is_now]
        if "clips" in changed or (fingerprints and not old):
            changed = ["clips"]  # others have other captions, too
        found += [f"the {kind.partition(',')[0]} of {name}" for kind in changed]
    return found


FREE = ("output", "threads", "device", "start")
FREE_OPTIM = ("cosine_from", "lr", "lr_scale", "accumulate", "schedule", "cycles")


def _recipe(values: dict, reached: int) -> dict[str, object]:
    """What a run must have in common with one it continues: all but its pace, place and machine, and stages to come."""
    values = copy.deepcopy(values)
    for name in FREE:
        values.pop(name)
    for source in values["sources"].values():
        source.pop("path")
    stages = values.pop("stages")[: reached + 1]
    stages[-1]["optim"].pop("steps")  # the present stage may go on for longer
    for i, stage in enumerate(stages, start=1):
        for name in FREE_OPTIM:
            stage["optim"].pop(name)
        for name in ("workers", "cache"):
            stage["data"].pop(name)
        stage.get("model", {}).pop("gradient_checkpointing", None)
        values |= {f"stage.{i}.{name}" if len(stages) > 1 else name: v for name, v in stage.items()}
    return dict(_leaves(values))


def _leaves(values: dict, where: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield where + name, value
