"""What the check runs on: the device, how it is timed, and what it can give at best."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .report import NotHere

GIB = 2**30
LEFT = 2.5  # GiB, where memory is tight


@dataclass
class Here:
    """Where the check runs. small: networks and clips that a CPU computes in seconds, instead of full-size ones."""

    device: torch.device
    folder: Path  # for files of this run alone
    small: bool
    ceiling: float | None = None  # TFLOP/s in float16, once measured
    ends: float = float("inf")  # when the check's time is over, of time.monotonic()
    kept: dict = field(default_factory=dict)  # what one line leaves for the next

    @property
    def is_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        return torch.float16 if self.is_card else torch.bfloat16

    def wait(self) -> None:
        if self.is_card:
            torch.cuda.synchronize(self.device)

    def empty(self) -> None:
        if self.is_card:
            torch.cuda.empty_cache()


def about(here: Here) -> dict:
    """The card, its driver and torch."""
    facts = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    if not here.is_card:
        return {"device": f"CPU, {torch.get_num_threads()} threads", **facts}
    card = torch.cuda.get_device_properties(here.device)
    free, total = torch.cuda.mem_get_info(here.device)
    return {
        "device": card.name,
        "GiB": round(total / GIB, 1),
        "free": round(free / GIB, 1),
        "capability": f"{card.major}.{card.minor}",
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        **facts,
    }


def ceilings(here: Here) -> dict:
    """A large matrix product and a large copy: what no network goes beyond."""
    side = 8192 if not here.small else 512
    a = torch.randn(side, side, device=here.device, dtype=here.half)
    b = torch.randn_like(a)
    seconds = timed(here, lambda: a @ b)
    here.ceiling = 2 * side**3 / seconds / 1e12
    x = torch.empty(2**26 if not here.small else 2**20, device=here.device)
    y = torch.empty_like(x)
    copied = 2 * x.nbytes / timed(here, lambda: y.copy_(x))
    return {"TFLOP/s": round(here.ceiling, 2), "copy GB/s": round(copied / 1e9, 1)}


def timed(here: Here, function: Callable[[], object], rounds: int = 10) -> float:
    """Median seconds of a call, after two that do not count."""
    rounds = rounds if not here.small else 2
    for _ in range(2 if not here.small else 1):
        function()
    found = []
    for _ in range(rounds):
        here.wait()
        began = time.perf_counter()
        function()
        here.wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def peak(here: Here, function: Callable[[], object]) -> float:
    """GiB that a call takes beside what is there before it. Raises NotHere on a CPU, which does not say."""
    if not here.is_card:
        function()
        raise NotHere("a CPU does not tell its peak")
    here.empty()
    torch.cuda.reset_peak_memory_stats(here.device)
    before = torch.cuda.memory_allocated(here.device)
    function()
    here.wait()
    return (torch.cuda.max_memory_allocated(here.device) - before) / GIB


@contextmanager
def left(here: Here, gib: float) -> Iterator[bool]:
    """So much memory free, and no more, as beside a game or a browser. Yields whether it is so, within a tenth."""
    if not here.is_card:
        yield False
        return
    here.empty()
    taken: list[torch.Tensor] = []
    try:
        for share in (1.0, 0.9, 0.5):  # a driver does not give all that it calls free, and a browser may come between
            size = int(share * (torch.cuda.mem_get_info(here.device)[0] - gib * GIB))
            try:
                taken.append(torch.empty(max(0, size), dtype=torch.uint8, device=here.device))
            except torch.OutOfMemoryError:
                continue
        free = torch.cuda.mem_get_info(here.device)[0] / GIB
        yield abs(free - gib) <= 0.1 * gib + 0.05
    finally:
        taken.clear()
        here.empty()
