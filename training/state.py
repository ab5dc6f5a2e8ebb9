"""What a checkpoint holds of those that have no `state_dict` of their own kind: weights by name, and optimizers.

Tensors are gathered whole from wherever the processes keep their shards, and spread again as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from .checkpoint import Checkpoint
from .parallel import spread_like, whole

# What Prodigy has found out, beside the moments: the rate it estimates, and from what.
RATES = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")
Contents = dict[str, dict[str, Tensor]]


def gathered(named: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one after the other: only one process keeps them."""
    kept = {}
    for name, tensor in named.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu()
    return kept


def load_weights(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A checkpoint's weights into those of a module, by name; what the module no longer has is let go of."""
    with torch.no_grad():
        for name, weight in weights.items():
            if name in own:
                if own[name].shape != weight.shape:
                    raise TrainingError(f"{name} is {tuple(weight.shape)} in the checkpoint; the run was changed.")
                own[name].copy_(weight)


def freeze_at_average(found: Checkpoint, unet: nn.Module, learns: set[str]) -> None:
    """Weights that stop learning stay as they were averaged: as the stage that ended showed and saved them."""
    averaged = {n.removeprefix("unet."): w for n, w in found.tensors("averaged").items() if n.startswith("unet.")}
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name in averaged and name not in learns:
                weight.copy_(averaged[name])


def optimizer_state(optimizer: torch.optim.Optimizer, learning: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The moments, as "kind.weight's name"."""
    moments: dict[str, Tensor] = {}
    for name, weight in learning.items():
        for kind, value in optimizer.state.get(weight, {}).items():
            value = value if isinstance(value, Tensor) else torch.tensor(int(value))
            # 8-bit optimizers keep one table for all weights; a file has no place for shared memory.
            moments[f"{kind}.{name}"] = value.clone() if kind.startswith("qmap") else value
    return moments


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, list[dict[str, float]]]:
    """What an optimizer found out, of each of its groups; {} of most."""
    rates = [{k: float(group[k]) for k in RATES if k in group} for group in optimizer.param_groups]
    return {"rates": rates} if any(rates) else {}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    learning: Mapping[str, nn.Parameter],
    moments: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, float]],
) -> None:
    """The inverse of both, where the present stage has their weights and groups."""
    for key, value in moments.items():
        kind, name = key.split(".", 1)
        if name in learning:
            moment = int(value) if value.dtype == torch.int64 else spread_like(value, learning[name])
            optimizer.state[learning[name]][kind] = moment
    if len(rates) == len(optimizer.param_groups):
        for group, kept in zip(optimizer.param_groups, rates, strict=True):
            group.update({name: type(group.get(name, 0.0))(value) for name, value in kept.items()})
