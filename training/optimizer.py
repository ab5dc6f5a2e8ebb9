"""Optimizers, learning rates, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..libraries import library
from ..model_patches.network.parts import part_of
from .config import OptimConfig
from .parallel import spread_like

LIBRARIES = {"adamw8bit": "bitsandbytes.optim", "prodigy": "prodigyopt"}


def make_optimizer(named: Mapping[str, nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """`optim.optimizer` over these weights, in groups by rate and decay.

    Norms, biases and gates (one axis) are not decayed: they have no scale to keep in check.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in named.items():
        part = part_of(name.removeprefix("unet.")) if name.startswith("unet.") else name.split(".")[0]
        scale = optim.lr_scale.get(part, 1.0)
        decay = optim.weight_decay if weight.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(weight)
    tables = [
        {"params": weights, "lr": optim.lr * scale, "scale": scale, "weight_decay": decay}
        for (scale, decay), weights in groups.items()
    ]
    if optim.optimizer == "adamw8bit":
        return _library_of(optim.optimizer).AdamW8bit(tables, lr=optim.lr, betas=optim.betas)
    if optim.optimizer == "prodigy":
        prodigy = _library_of(optim.optimizer).Prodigy
        # Its estimate is scaled by the rate, which a warm-up makes small at first.
        return prodigy(tables, lr=optim.lr, betas=optim.betas, safeguard_warmup=optim.warmup > 0)
    if optim.optimizer == "adafactor":
        if not hasattr(torch.optim, "Adafactor"):
            raise TrainingError("optim.optimizer adafactor needs torch 2.5 or newer; set optim.optimizer = 'adamw'.")
        return torch.optim.Adafactor(tables, lr=optim.lr)
    return torch.optim.AdamW(tables, lr=optim.lr, betas=optim.betas, fused=True)


def needs(optimizer: str) -> dict[str, tuple[str, str]]:
    """The library that an optimizer is of, beside torch: what for, and how to do without it."""
    name = LIBRARIES.get(optimizer)
    return {name: (f"optim.optimizer {optimizer}", "set optim.optimizer = 'adamw'")} if name else {}


def _library_of(optimizer: str) -> ModuleType:
    """Imported. Raises LibraryError."""
    ((name, told),) = needs(optimizer).items()
    return library(name, *told)


def state_bytes(optimizer: str, weights: Iterable[Tensor]) -> int:
    """What an optimizer keeps of these weights beside them and their gradients."""
    if optimizer == "adafactor":  # means over the rows and the columns of a table, and all of a vector
        counts = [(w.numel(), *w.shape[-2:]) for w in weights]
        return 4 * sum(n if len(sides) < 2 else n // sides[0] + n // sides[1] for n, *sides in counts)
    return {"adamw": 8, "adamw8bit": 2, "prodigy": 16}[optimizer] * sum(w.numel() for w in weights)


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Of a step of the stage, from 0: linear warm-up, then optim.schedule; as transformers' get_scheduler."""
    rate = optim.lr * min(1.0, (step + 1) / max(1, optim.warmup))
    done = max(0.0, (step - optim.warmup) / max(1, optim.steps - optim.warmup))
    if optim.schedule == "linear":
        return rate * max(0.0, 1 - done)
    if optim.schedule == "cosine":
        return rate * _half_cosine(done)
    if optim.schedule == "cosine_with_restarts":
        return rate * _half_cosine(done * optim.cycles % 1.0) if done < 1 else 0.0
    start = optim.cosine_from * optim.steps
    return rate * (_half_cosine((step - start) / max(1.0, optim.steps - start)) if step > start else 1.0)


def _half_cosine(done: float) -> float:
    """From 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """Exponential moving average of named weights, in float32, quicker at first so that early weights are forgotten."""

    def __init__(self, named: Mapping[str, Tensor], decay: float, step: int) -> None:
        """step: the run's; what a later stage adds has its own beginning to forget."""
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in named.items()}
        self.born = dict.fromkeys(self.weights, step)

    def facts(self) -> dict[str, dict[str, int]]:
        """When each average began, where that was later than the run."""
        return {"born": {name: step for name, step in self.born.items() if step}}

    def load_state_dict(
        self, weights: Mapping[str, Tensor], born: Mapping[str, int], like: Mapping[str, Tensor]
    ) -> None:
        """Averages by name, of those there are here; spread over the processes as the weights they are of."""
        for name, weight in weights.items():
            if name in like:
                self.weights[name] = spread_like(weight, like[name])
                self.born[name] = born.get(name, 0)

    @torch.no_grad()
    def update(self, named: Mapping[str, Tensor], step: int) -> None:
        """step: of the run, this one included."""
        for born in sorted(set(self.born.values())):
            names, age = [n for n, b in self.born.items() if b == born], step - born
            decay = min(self.decay, (1 + age) / (10 + age))
            averages, latest = [self.weights[n] for n in names], [named[n].detach() for n in names]
            torch._foreach_lerp_(averages, latest, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  # its only name
