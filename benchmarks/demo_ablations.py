"""What each part of the demo model is worth: the same recipe trained with a part left out, equal steps, one seed.

    python benchmarks/demo_ablations.py --steps 2000 --runs runs/ablations --out benchmarks/demo_ablations.json

The learning rate stays constant, so that "full" is the demo run itself at that step. Every arm is measured on the
same held-out clips as `make demo-quality`. Finished arms are not trained again. Single seeds of short runs: read
differences under 20 points as noise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path

import torch

from dreamfactory.pipelines.bundle import load_bundle
from dreamfactory.pipelines.image_to_video import Settings
from dreamfactory.training.loop import train
from dreamfactory.training.run_file import load_run
from dreamfactory.training.tiny_world.held_out import held_out
from dreamfactory.training.tiny_world.measure import measure
from dreamfactory.training.tiny_world.quality import animate_all

ARMS = {
    "without_motion_text": ["model.config.motion_text=off"],
    "eps_zero_snr_as_printed": ["schedule.prediction=eps", "schedule.rescale=printed"],
    "without_paca": ["model.config.paca=false"],
    "full": [],
}

SETTINGS = Settings(seed=1, steps=8, guidance_scale=1.5)  # the demo's


def run_arm(name: str, changes: list[str], args: argparse.Namespace) -> dict:
    folder = Path(args.runs) / name
    if not (folder / "bundle" / "bundle.json").exists():
        fixed = [
            f"output.folder={folder}",
            f"optim.steps={args.steps}",
            "optim.cosine_from=1.0",
            "output.validation_clips=0",
        ]
        config = load_run("demo", [*changes, *fixed, f"threads={args.threads}"])
        run = train(config)
        if run.step < args.steps:
            sys.exit("stopped; run the same command to go on")
    clips = held_out(args.clips)
    made = animate_all(load_bundle(folder / "bundle"), clips, clips.motion, SETTINGS, name)
    scores = measure(made, clips.specs, clips.first_frames).summary()
    return {"changes": changes, **{k: round(v, 4) for k, v in scores.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", default="runs/ablations")
    parser.add_argument("--out", default="benchmarks/demo_ablations.json")
    args = parser.parse_args()
    result = {
        "command": f"python benchmarks/demo_ablations.py --steps {args.steps} --clips {args.clips}",
        "machine": f"{platform.machine()} CPU, {args.threads} thread(s), torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "arms": {},
    }
    for name, changes in ARMS.items():
        result["arms"][name] = run_arm(name, changes, args)
        print(json.dumps({name: result["arms"][name]}), flush=True)
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
