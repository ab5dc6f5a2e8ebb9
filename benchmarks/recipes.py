"""Both papers' recipes at laptop size, stage by stage, and what PredictNet and Swap-CA are worth in them.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py --out benchmarks/recipes.json

Trains the presets tiny-factorized-dreamer (forty minutes) and tiny-videofactory (seven hours) where runs/ does not hold
them yet, then the stage that brings a part again from the same checkpoint without it, for as many steps. Every stage is
measured on the same held-out clips, at the stage's own size. Single seeds of short runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dreamfactory.training import checkpoint as disk
from dreamfactory.training.config import RunConfig
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.trainer import Trainer

# The stage that brings a part, what it is without it, and how that is said.
ARMS = {
    "tiny-factorized-dreamer": (
        "predict-net",
        "without PredictNet",
        ["stage.predict-net.model.config.predict_net=false", "stage.predict-net.loss.flow_weight=0.0"],
    ),
    "tiny-videofactory": (
        "swap-attention",
        "without Swap-CA",
        ["stage.swap-attention.model.config.swap_attention=off", "stage.larger.model.config.swap_attention=off"],
    ),
}


def stage_ends(folder: Path) -> list[disk.Checkpoint]:
    return [c for c in disk.checkpoints(folder / disk.FOLDER) if c.facts["ends_stage"]]


def measure(config: RunConfig, found: disk.Checkpoint, clips: int) -> dict[str, float]:
    """The averaged weights of a checkpoint on held-out clips."""
    stages = config.stages[: found.stage + 1]
    output = replace(config.output, validation_clips=clips, loggers=())
    trainer = Trainer(replace(config, stages=stages, output=output), say=lambda text: None)
    trainer.setup_stage(found)
    objective, validation, device = trainer.result(), trainer.validation, trainer.accelerator.device
    assert objective is not None  # of the first process, which is the only one
    losses = validation.loss(objective, device)
    scores, _ = validation.sample(objective, device, found.step, trainer.folder / "measured")
    return {k: round(v, 4) for k, v in {"loss": losses["loss"], **scores}.items()}


def run(preset: str, runs: Path, clips: int, steps: list[str]) -> dict:
    folder = runs / preset
    config = load_run(preset, [f"output.folder={folder}", *steps])
    train(config)
    stage, name, changes = ARMS[preset]
    at = [s.name for s in config.stages].index(stage)
    other = runs / f"{preset}-{name.replace(' ', '-')}"
    begin = stage_ends(folder)[at - 1]
    if not (other / disk.FOLDER / begin.path.name).exists():
        shutil.copytree(begin.path, other / disk.FOLDER / begin.path.name)
    without = load_run(preset, [f"output.folder={other}", *steps, *changes])
    without = replace(without, stages=without.stages[: at + 1])
    train(without)
    rows = {config.stages[c.stage].name: measure(config, c, clips) for c in stage_ends(folder)}
    rows[f"{stage}, {name}"] = measure(without, stage_ends(other)[-1], clips)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--only", choices=ARMS, help="one of the two recipes")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change a setting of both")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/recipes.json"))
    args = parser.parse_args()
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    for preset in [args.only] if args.only else ARMS:
        result["rows"][preset] = run(preset, args.runs, args.clips, args.set)
        print(json.dumps({preset: result["rows"][preset]}, indent=2), flush=True)
        result |= {
            "command": f"OMP_NUM_THREADS=1 python benchmarks/recipes.py --clips {args.clips}",
            "machine": f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}",
            "date": datetime.date.today().isoformat(),
        }
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
