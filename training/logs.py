"""Numbers of a run: metrics.jsonl always; TensorBoard or Weights & Biases beside it where they are installed."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ..files import whole
from ..libraries import fault

METRICS = "metrics.jsonl"


class Log:
    """Writes numbers by step. Lines of steps that a resumed run will do again are dropped first."""

    def __init__(self, folder: Path, step: int, loggers: Sequence[str], say: Callable[[str], object] = print) -> None:
        self.path, self.say, self.told = folder / METRICS, say, False
        forget_after(self.path, step)
        self.file = self.path.open("a")
        self.board, self.wandb = None, None
        for name in loggers:
            try:
                if name == "tensorboard":
                    from torch.utils.tensorboard import SummaryWriter

                    self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)
                else:
                    self.wandb = _wandb().init(
                        project="dreamfactory", dir=str(folder), name=folder.name, resume="allow"
                    )
            except Exception as error:
                found = fault(error, name)
                if found is None:
                    raise
                say(f"{found}. Until then numbers go to {METRICS} alone")

    def write(self, step: int, **groups: Mapping[str, float] | float | str) -> None:
        """groups: numbers, or tables of numbers, by name; texts are for METRICS alone."""
        try:
            self.file.write(json.dumps({"step": step, **groups}) + "\n")
            self.file.flush()
        except OSError as error:  # a full disk is no reason to stop learning
            if not self.told:
                self.say(f"{self.path} cannot be written: {error.strerror}; training goes on without it")
            self.told = True
        flat = {}
        for name, value in groups.items():
            if isinstance(value, Mapping):
                flat.update({f"{name}/{k}": v for k, v in value.items()})
            elif isinstance(value, int | float):
                flat[f"training/{name}"] = value
        if self.board is not None:
            for name, value in flat.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(flat, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        if self.board is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                self.board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        if self.wandb is not None:
            self.wandb.log({name: _wandb().Image(str(path))}, step=step)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # told already
            self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def _wandb() -> ModuleType:
    """Weights & Biases, which is no library of ours: it may be there or not."""
    return importlib.import_module("wandb")


def read(path: Path) -> list[dict]:
    """The lines of a metrics file; damaged ones, as one that was cut short, do not count."""
    lines = []
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again; through a temporary file and one rename."""
    if path.exists():
        kept = [line for line in read(path) if line["step"] <= step] if step else []
        with whole(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
