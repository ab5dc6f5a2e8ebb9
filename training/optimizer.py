"""Optimizers, learning rates, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..model_patches.parts import part_of
from .config import OptimConfig
from .errors import TrainingError


def make_optimizer(named: Mapping[str, nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over these weights, in groups by rate and decay.

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
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise TrainingError(
                "optim.optimizer adamw8bit needs bitsandbytes, which is not installed; pip install bitsandbytes, or "
                "set optim.optimizer = 'adamw'."
            ) from error
        return AdamW8bit(tables, lr=optim.lr, betas=optim.betas)
    return torch.optim.AdamW(tables, lr=optim.lr, betas=optim.betas, fused=True)


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Linear warm-up, constant, then a cosine down to zero from `cosine_from` of the stage's steps on."""
    rate = optim.lr * min(1.0, (step + 1) / max(1, optim.warmup))
    start = optim.cosine_from * optim.steps
    if step > start:
        rate *= 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, optim.steps - start)))
    return rate


class Average:
    """Exponential moving average of named weights, in float32, quicker at first so that early weights are forgotten."""

    def __init__(self, named: Mapping[str, Tensor], decay: float, step: int) -> None:
        """step: the run's; what a later stage adds has its own beginning to forget."""
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in named.items()}
        self.born = dict.fromkeys(self.weights, step)

    @torch.no_grad()
    def update(self, named: Mapping[str, Tensor], step: int) -> None:
        """step: of the run, this one included."""
        for born in sorted(set(self.born.values())):
            names, age = [n for n, b in self.born.items() if b == born], step - born
            decay = min(self.decay, (1 + age) / (10 + age))
            torch._foreach_lerp_([self.weights[n] for n in names], [named[n].detach() for n in names], 1 - decay)
