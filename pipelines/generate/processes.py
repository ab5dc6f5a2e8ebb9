"""Which share of a list this process has, where `accelerate launch` (or torchrun) started several."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """One process alone, unless started by a launcher."""

    rank: int = 0
    world: int = 1
    state: Any = None

    @property
    def device(self) -> str | None:
        """This process's own; None where it is alone."""
        return None if self.state is None else str(self.state.device)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


def processes(device: str) -> Processes:
    """This process among its siblings. device: as asked for, "auto" too."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    cpu = device.startswith("cpu") or not torch.cuda.is_available()
    # The last process may come long after the first: shares of a list differ by whole clips.
    state = PartialState(cpu=cpu, timeout=datetime.timedelta(days=30))
    return Processes(state.process_index, state.num_processes, state)
