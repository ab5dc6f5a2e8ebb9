"""What a run trains, behind one interface: a video network (video/task.py) or an upscaler (super_resolution/task.py).

`Trainer` knows steps, optimizers, averages, checkpoints and processes; a `Task` knows the network, what a batch is and
what its loss is. A new kind of training is a new Task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..model_patches.dtypes import DTYPES
from .batch import Batch, Bucket
from .checkpoint import Checkpoint
from .config import RunConfig
from .data.mix import BatchPlan
from .data.source import Source

Loss = tuple[Tensor, dict[str, Tensor]]  # what is minimised, and its parts by name
Objective = TypeVar("Objective", bound=nn.Module)  # a batch -> its loss
Shown = TypeVar("Shown", bound=nn.Module, contravariant=True)  # an objective that is looked at


class Validation(Protocol[Shown]):
    """Clips kept out of training, looked at and measured now and then. False where there are none."""

    def __bool__(self) -> bool: ...

    def loss(self, objective: Shown, device: torch.device) -> dict[str, float]: ...

    def sample(
        self, objective: Shown, device: torch.device, step: int, folder: Path
    ) -> tuple[dict[str, float], Path | None]:
        """Measures, and the sheet to look at."""
        ...


@dataclass(frozen=True)
class Run:
    """What a task may know of the run it is in."""

    config: RunConfig
    accelerator: Any  # accelerate.Accelerator
    say: Callable[[str], object]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes


@dataclass(frozen=True)
class Stage(Generic[Objective]):
    """A stage, ready to train."""

    objective: Objective  # those of its parameters that require a gradient train
    saved: set[str]  # parameters and buffers that a checkpoint keeps
    sources: Mapping[str, Source]
    validation: Validation[Objective]
    stills: bool  # whether a single picture teaches anything


class Task(ABC, Generic[Objective]):
    """One kind of training. `build` comes first; what it keeps in `self` is the present stage's."""

    headline: ClassVar[str]  # of the parts of a loss, the one to show

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config

    @abstractmethod
    def build(self, index: int, found: Checkpoint | None) -> Stage[Objective]:
        """A stage of the run: at its beginning, or as a checkpoint of it or of the stage before has it."""

    @abstractmethod
    def batch(self, plan: BatchPlan, rows: range, step: int) -> tuple[Batch, Any]:
        """These rows of a step's batch and their random numbers, on the CPU: the same for the same step."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, draws: Any, bucket: Bucket, step: int) -> Loss:
        """module: the objective, as it is spread over processes."""

    def averaged(self, learning: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Of what trains, that of which averages are kept: all."""
        return dict(learning)

    @abstractmethod
    def result(self, objective: Objective, weights: Mapping[str, Tensor]) -> Objective:
        """An objective of its own with averaged weights (whole ones, by the objective's names), to be looked at. What
        does not train is shared with `objective`, not copied."""

    @abstractmethod
    def export(self, result: Objective, folder: Path, title: str) -> None:
        """The files that ComfyUI's nodes load. Raises TrainingError."""

    def export_size(self, result: Objective) -> int:
        """About how many bytes `export` writes."""
        return sum(p.numel() for p in result.parameters()) * DTYPES[self.config.output.dtype].itemsize

    @abstractmethod
    def save_bundle(self, result: Objective, folder: Path) -> str:
        """What a finished run leaves in its folder besides; says where."""
