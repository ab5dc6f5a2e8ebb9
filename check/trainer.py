"""Thirty steps of training, stopped in the middle and resumed: the same weights to the bit."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout

import torch
from safetensors.torch import load_file

from .device import Here
from .report import NotHere, Wrong


def resume(here: Here, precision: str) -> dict:
    """precision: fp32, bf16 or fp16, of the computation; what trains is float32."""
    from ..training.config import load_run
    from ..training.errors import TrainingError
    from ..training.run import train

    steps = 30 if not here.small else 4
    folder = here.folder / f"train-{precision}"

    def run(name: str):
        config = load_run(
            "tiny",
            [
                f"device={here.device.type}", f"precision={precision}", f"output.folder={folder / name}",
                f"optim.steps={steps}", "optim.batch_size=4", "optim.warmup=2", "data.frames=4",
                f"output.checkpoint_every={steps // 2}", "output.keep=5", "output.validation_clips=0",
                "output.loggers=()",
            ],
        )  # fmt: skip
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # its bars would stand in the table
            train(config)

    try:
        run("whole")
        # What a kill after the middle checkpoint leaves.
        middle = f"step-{steps // 2:09d}"
        shutil.copytree(folder / "whole" / "checkpoints" / middle, folder / "stopped" / "checkpoints" / middle)
        run("stopped")
    except TrainingError as error:
        if precision == "fp16" and not here.is_card:
            raise NotHere(str(error)) from error
        raise
    count = 0
    for part in ("weights", "averaged", "optimizer"):
        end = f"checkpoints/step-{steps:09d}/{part}.safetensors"
        a, b = (load_file(folder / name / end) for name in ("whole", "stopped"))
        different = [k for k in a if not torch.equal(a[k], b[k])]
        if different:
            raise Wrong(f"{len(different)} of {len(a)} tensors of {part} differ after the resume, {different[0]} first")
        if not all(torch.isfinite(w).all() for w in a.values()):
            raise Wrong(f"some of {part} are no numbers (NaN) after the training")
        count += sum(w.numel() for w in a.values())
    return {"steps": steps, "numbers equal": count}
