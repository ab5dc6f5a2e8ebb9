"""Thirty steps of training, stopped in the middle and resumed: the same weights to the bit."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..model_patches.kernels import same_bits
from .device import Here
from .report import NotHere, Wrong


def resume(here: Here, precision: str) -> dict:
    """precision: fp32, bf16 or fp16, of the computation; what trains is float32."""
    from ..errors import TrainingError
    from ..training.loop import train
    from ..training.run_file import load_run

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
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), same_bits(), _deterministic():
            train(config)  # its bars would stand in the table

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
    count, resumed = 0, _difference(folder / "whole", folder / "stopped", steps)
    if resumed is not None:
        # Kernels may add in any order on this card: then no two runs are equal, and a resume is no more to blame.
        run("again")
        apart = _difference(folder / "whole", folder / "again", steps)
        if apart is None:
            raise Wrong(f"after the resume {resumed[1]} is {resumed[0]:.1g} off; two runs without one are equal")
        if not resumed[0] <= 10 * apart[0]:
            raise Wrong(f"the resume is {resumed[0]:.1g} off, two runs without one {apart[0]:.1g}")
        return {"steps": steps, "same bits": False, "resume off": resumed[0], "two runs off": apart[0]}
    for part in PARTS:
        numbers = load_file(folder / "whole" / END.format(steps, part)).values()
        if not all(torch.isfinite(w).all() for w in numbers):
            raise Wrong(f"some of {part} are no numbers (NaN) after the training")
        count += sum(w.numel() for w in numbers)
    return {"steps": steps, "same bits": True, "numbers": count}


PARTS, END = ("weights", "averaged", "optimizer"), "checkpoints/step-{:09d}/{}.safetensors"


def _difference(a: Path, b: Path, steps: int) -> tuple[float, str] | None:
    """The largest difference of two runs' last checkpoints, relative to a tensor's largest number, and where."""
    found = []
    for part in PARTS:
        first, second = (load_file(run / END.format(steps, part)) for run in (a, b))
        for key, x in first.items():
            if not torch.equal(x, second[key]):
                off = (x.double() - second[key].double()).abs().max() / x.double().abs().max().clamp(min=1e-12)
                found.append((float(off), f"{part}'s {key}"))
    return max(found, default=None)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Training as one runs it who wants the same bits on a card."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what has no such algorithm
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
