"""Networks of random weights, for comparing two classes: nothing stays at zero, where a wrong branch would not show."""

from typing import TypeVar

import torch

Network = TypeVar("Network", bound=torch.nn.Module)


@torch.no_grad()
def randomise(module: Network) -> Network:
    """Every weight random, of a size that keeps activations near 1."""
    for name, weight in module.named_parameters():
        scale = 0.2 if weight.ndim < 2 else weight[0].numel() ** -0.5
        weight.copy_(torch.randn_like(weight) * scale + (weight.ndim == 1 and name.endswith("weight")))
    return module.eval()
