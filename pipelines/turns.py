"""Networks that take turns on a device, so that a small card needs room for the largest of them alone."""

from __future__ import annotations

import sys

import torch
from torch import nn

from ..model_patches import UNetConfig

SHARE = 0.5  # of a card's memory that weights may fill; the rest is for what is computed
PER_CELL = (
    0.0125 * 2**20
)  # bytes of activations a latent pixel and byte of a number, at 320 channels (benchmarks/memory)
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
        if self.memory is not None and sum(map(bytes_of, [*wanted, *others])) > SHARE * self.memory:
            self._send_away(others)
            others = []
        for network in wanted:
            network.to(self.device)
        self._here = [*others, *wanted]

    def over(self, *but: nn.Module) -> None:
        """Nobody's turn, but of these: the device is free of other weights."""
        self._send_away([here for here in self._here if here not in but])
        self._here = [here for here in self._here if here in but]

    def peak(self) -> str:
        """The most memory there was in use so far, in words."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.2f} GiB on {self.device}"
        try:
            import resource
        except ImportError:  # Windows
            return "not known"
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return f"{used * (1 if sys.platform == 'darwin' else 2**10) / 2**30:.2f} GiB"

    def clips_at_once(self, config: UNetConfig, frames: int, height: int, width: int, number: int) -> int:
        """How many clips of so many latent pixels a pass may have, from what is free now; number: bytes of one."""
        guided = 2  # with and without captions, in one pass
        each = guided * frames * height * width * number * PER_CELL * config.model_channels / 320
        return max(1, min(MOST_CLIPS, int(self._free() // each)))

    def _free(self) -> float:
        """Bytes that activations may have."""
        if self.memory is not None:
            return (1 - SHARE) * self.memory
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
