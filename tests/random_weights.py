"""Networks of random weights, for comparing two classes: nothing stays at zero, where a wrong branch would not show."""

import torch


@torch.no_grad()
def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Every weight random, of a size that keeps activations near 1."""
    for name, weight in module.named_parameters():
        scale = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
        weight.copy_(torch.randn_like(weight) * scale + (weight.ndim == 1 and name.endswith("weight")))
    return module.eval()
