"""Networks that take turns on a device, so that a small card needs room for the largest of them alone."""

from __future__ import annotations

import sys

import torch
from torch import nn

from ..model_patches import VideoUNet

SHARE = 0.5  # of a card's memory that weights may fill; the rest is for what is computed
PER_CELL = 13107  # bytes of activations a latent pixel and byte of a number, at 320 channels (benchmarks/memory)
RESERVE = 2**29  # bytes of a card that its driver and libraries take
MOST_CLIPS = 8  # at once: more are no quicker


class Turns:
    """Moves networks to a device when it is their turn, and back to the CPU when room is needed for the next.

    Where all weights seen so far fit into `SHARE` of the device's memory together, they stay. On a CPU nothing moves.
    memory: bytes of the device; None: asked of CUDA, without a limit elsewhere.
    """

    def __init__(self, device: torch.device | str = "cpu", memory: int | None = None) -> None:
        self.device = torch.device(device)
        if memory is None and self.device.type == "cuda":
            memory = torch.cuda.get_device_properties(self.device).total_memory
        self.memory = memory
        self._here: list[nn.Module] = []

    def __call__(self, *networks: nn.Module | None) -> None:
        """It is these networks' turn; None stands for a part that is not there."""
        wanted = [network for network in networks if network is not None]
        others = [here for here in self._here if not any(here is network for network in wanted)]
        if self.too_large(*wanted, *others):
            self._send_away(others)
            others = []
        for network in wanted:
            network.to(self.device)
        self._here = [*others, *wanted]

    def too_large(self, *networks: nn.Module) -> bool:
        """Whether weights leave too little of the device's memory to compute in."""
        return self.memory is not None and sum(map(bytes_of, networks)) > SHARE * self.memory

    def over(self, *but: nn.Module) -> None:
        """Nobody's turn, but of these: the device is free of other weights."""
        self._send_away([here for here in self._here if here not in but])
        self._here = [here for here in self._here if here in but]

    def peak(self) -> str:
        """The most memory there was in use so far, in words."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.2f} GiB on {self.device}"
        used = _peak_of_process()
        return "not known" if used is None else f"{used / 2**30:.2f} GiB"

    def clips_at_once(self, unet: VideoUNet, frames: int, height: int, width: int) -> int:
        """How many clips of so many latent pixels a pass of the network may have, from what memory is left."""
        guided, number = 2, next(unet.parameters()).element_size()  # with and without captions, in one pass
        each = guided * frames * height * width * number * PER_CELL * unet.config.model_channels / 320
        return max(1, min(MOST_CLIPS, int(self._left(unet) // each)))

    def _left(self, network: nn.Module) -> float:
        """Bytes that activations may have beside a network's weights, and others' that stay where they fit."""
        if self.memory is not None:
            return max(0.0, self.memory - RESERVE - max(SHARE * self.memory, bytes_of(network)))
        try:
            with open("/proc/meminfo") as lines:
                facts = dict(line.split(":", 1) for line in lines)
            return int(facts["MemAvailable"].split()[0]) * 2**10 / 2
        except (OSError, KeyError, ValueError):
            return 0.0  # not known here: one clip at a time

    def _send_away(self, networks: list[nn.Module]) -> None:
        if self.device.type == "cpu" or not networks:
            return
        for network in networks:
            network.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def bytes_of(network: nn.Module) -> int:
    """Of all its weights."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def _peak_of_process() -> int | None:
    """Bytes of memory that this process had at most; None where the system does not say."""
    try:
        with open("/proc/self/status") as lines:  # what getrusage says on Linux counts the parent's memory in
            return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
