"""Which share of a list this process has, where `accelerate launch` (or torchrun) started several."""

from __future__ import annotations

import atexit
import datetime
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
joined = False  # whether this process has connected to others


class RefusedElsewhere(Exception):
    """Another process was refused what was asked, and has said so; this one has nothing to add."""


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

    def close(self) -> None:
        """At the end of the work: threads of the connection that are still there would abort the process."""
        if self.state is not None:
            self.state.destroy_process_group()

    def agree(self, work: Callable[[], T]) -> T:
        """`work`, done by every process. Where it fails in one, it fails in all, and only the first that failed raises
        its own error; the others raise RefusedElsewhere."""
        if self.state is None:
            return work()
        from accelerate.utils import gather_object

        try:
            done = work()
        except Exception:
            failed = gather_object([True])
            self.close()
            if failed.index(True) != self.rank:
                raise RefusedElsewhere from None
            raise
        if any(gather_object([False])):
            self.close()
            raise RefusedElsewhere
        return done


def processes(device: str) -> Processes:
    """This process among its siblings. device: as asked for, "auto" too."""
    if not is_launched():
        return Processes()
    import torch
    from accelerate import PartialState

    from ..media.transcode import note

    if os.environ["RANK"] == "0":
        note(f"one of {os.environ['WORLD_SIZE']} processes; waiting for the others.")
    cpu = device.startswith("cpu") or not torch.cuda.is_available()
    # The last process may come long after the first: shares of a list differ by whole clips.
    global joined
    joined = True
    state = PartialState(cpu=cpu, timeout=datetime.timedelta(days=30))
    return Processes(state.process_index, state.num_processes, state)


def leave(code: str | int | None) -> None:
    """End this process here, if it has joined others: threads of their connection may abort an interpreter that winds
    down, and a launcher then takes work that is done for failed. code: as `sys.exit` takes it."""
    torch = sys.modules.get("torch")
    connected = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    if joined or connected:
        atexit._run_exitfuncs()
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def is_launched() -> bool:
    """Whether a launcher started this process and others. Clusters set some of these variables by themselves."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
    return all(value.isdecimal() for value in told) and bool(os.environ.get("MASTER_ADDR")) and int(told[1]) > 1
