"""A run's state: gathered from the processes, written as a checkpoint, and put back.

What is in a checkpoint: weights that train, and those that no longer are as the run's starting file has them; the
averages; the optimizer's moments; and, in half precision (fp16), the scale of the loss.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from . import checkpoint as disk
from .config import RunConfig
from .parallel import spread_like, whole
from .run_file import from_dict
from .video import models

if TYPE_CHECKING:
    from .trainer import Trainer

# What Prodigy has found out, beside the moments: the rate it estimates, and from what.
RATES = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")
Contents = dict[str, dict[str, Tensor]]


def gather(trainer: Trainer) -> Contents:
    """{file: tensors by name}, on the first process's CPU; the others hold nothing. All processes ask together."""
    learner = trainer.learner
    named = {n: t for n, t in [*learner.named_parameters(), *learner.named_buffers()] if n in trainer.saved}
    contents = {"weights": gathered(named, trainer.main), "averaged": {}}
    if trainer.average is not None:
        contents["averaged"] = gathered(trainer.average.weights, trainer.main)
    moments: dict[str, Tensor] = {}
    for name, weight in trainer.learning().items():
        for kind, value in trainer.optimizer.state.get(weight, {}).items():
            value = value if isinstance(value, Tensor) else torch.tensor(int(value))
            # 8-bit optimizers keep one table for all weights; a file has no place for shared memory.
            moments[f"{kind}.{name}"] = value.clone() if kind.startswith("qmap") else value
    contents["optimizer"] = gathered(moments, trainer.main)
    return contents


def gathered(named: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one after the other: only one process keeps them."""
    kept = {}
    for name, tensor in named.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu()
    return kept


def write(trainer: Trainer, contents: Contents, result: nn.Module) -> None:
    """One checkpoint, whole or not at all. Raises TrainingError."""
    folder, output = trainer.folder / disk.FOLDER, trainer.config.output
    facts = {
        "stage_step": trainer.stage_step,
        "ends_stage": trainer.stage_done,
        "data": trainer.data_marks,
        **trainer.begun_with,
    }
    if trainer.average is not None:
        facts["born"] = {n: step for n, step in trainer.average.born.items() if step}
    found_rates = [{k: float(group[k]) for k in RATES if k in group} for group in trainer.optimizer.param_groups]
    if any(found_rates):
        facts["rates"] = found_rates
    if trainer.accelerator.scaler is not None:
        facts["scaler"] = trainer.accelerator.scaler.state_dict()
    size = sum(tensor.nbytes for table in contents.values() for tensor in table.values())
    if trainer.stage.model.lora is None:
        size += sum(p.numel() for p in result.parameters()) * models.DTYPES[output.dtype].itemsize
    with disk.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        disk.check_room(folder, size)
        with disk.Staged(folder, trainer.step, trainer.stage_index, facts) as staged:
            for name, tensors in contents.items():
                staged.tensors(name, tensors)
            trainer.export(result, staged.path)
            (staged.path / "run.json").write_text(json.dumps(trainer.config.to_dict(), indent=2) + "\n", "utf-8")
    disk.keep_newest(folder, output.keep)


def put(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A checkpoint's weights into those of a module, by name; what the module no longer has is let go of."""
    with torch.no_grad():
        for name, weight in weights.items():
            if name in own:
                if own[name].shape != weight.shape:
                    raise TrainingError(f"{name} is {tuple(weight.shape)} in the checkpoint; the run was changed.")
                own[name].copy_(weight)


def settle(found: disk.Checkpoint, unet: nn.Module, learns: set[str]) -> None:
    """Weights that stop learning stay as they were averaged: as the stage that ended showed and saved them."""
    averaged = {n.removeprefix("unet."): w for n, w in found.tensors("averaged").items() if n.startswith("unet.")}
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name in averaged and name not in learns:
                weight.copy_(averaged[name])


def carry(trainer: Trainer, found: disk.Checkpoint) -> None:
    """The averages and moments of a checkpoint, where the present stage has their weights."""
    learning = trainer.learning()
    if trainer.average is not None:
        for name, weight in found.tensors("averaged").items():
            if name in learning:
                trainer.average.weights[name] = spread_like(weight, learning[name])
                trainer.average.born[name] = found.facts["born"].get(name, 0)
    of_same_kind = found.config["stages"][found.stage]["optim"]["optimizer"] == trainer.stage.optim.optimizer
    for key, value in found.tensors("optimizer").items() if of_same_kind else ():
        kind, name = key.split(".", 1)
        if name in learning:
            moment = int(value) if value.dtype == torch.int64 else spread_like(value, learning[name])
            trainer.optimizer.state[learning[name]][kind] = moment
    rates = found.facts.get("rates", []) if of_same_kind else []
    if len(rates) == len(trainer.optimizer.param_groups):
        for group, kept in zip(trainer.optimizer.param_groups, rates, strict=True):
            group.update({name: type(group.get(name, 0.0))(value) for name, value in kept.items()})
    if trainer.accelerator.scaler is not None and "scaler" in found.facts:
        trainer.accelerator.scaler.load_state_dict(found.facts["scaler"])


def same_recipe(
    found: disk.Checkpoint, config: RunConfig, origin: dict[str, str], encoder_marks: dict[str, str]
) -> None:
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
    for name, mark in found.facts.get("encoders", {}).items():
        key = f"encoders.{name}"
        if mark == encoder_marks[name]:  # the same, wherever it lies now
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
    for name, marks in now.items():
        old = before.get(name, {})
        old = {"clips": old} if isinstance(old, str) else old  # of checkpoints from before there were more
        changed = [kind for kind, mark in marks.items() if kind in old and old[kind] != mark]
        if "clips" in changed or (marks and not old):
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
        stage["model"].pop("gradient_checkpointing")
        # Tables that do not count do not matter.
        others = ("upscaler", "degradation") if stage["upscaler"] is None else ("model", "schedule", "dropout")
        for name in others:
            stage.pop(name, None)
        values |= {f"stage.{i}.{name}" if len(stages) > 1 else name: v for name, v in stage.items()}
    return dict(_leaves(values))


def _leaves(values: dict, where: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield where + name, value
