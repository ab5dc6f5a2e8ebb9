"""Numbers of a run: metrics.jsonl always; TensorBoard or Weights & Biases beside it where they are installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

METRICS = "metrics.jsonl"


class Log:
    """Writes numbers by step. Lines of steps that a resumed run will do again are dropped first."""

    def __init__(self, folder: Path, step: int, loggers: Sequence[str], say: Callable[[str], object] = print) -> None:
        self.path = folder / METRICS
        forget_after(self.path, step)
        self.file = self.path.open("a")
        self.board, self.wandb = None, None
        for name in loggers:
            try:
                if name == "tensorboard":
                    from torch.utils.tensorboard import SummaryWriter

                    self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
                else:
                    import wandb

                    self.wandb = wandb.init(project="dreamfactory", dir=str(folder), name=folder.name, resume="allow")
            except ImportError:
                say(f"{name} is not installed; numbers go to {METRICS} alone")

    def write(self, step: int, **groups: Mapping[str, float] | float) -> None:
        """groups: numbers, or tables of numbers, by name."""
        self.file.write(json.dumps({"step": step, **groups}) + "\n")
        self.file.flush()
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
            import wandb

            self.wandb.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def read(path: Path) -> list[dict]:
    """The lines of a metrics file; a last one that was cut short does not count."""
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again; through a temporary file and one rename."""
    if path.exists():
        kept = [line for line in read(path) if line["step"] <= step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
