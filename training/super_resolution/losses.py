"""What a super-resolution step is judged by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...metrics.warp import changes
from .discriminator import Discriminator


def gan(discriminator: Discriminator, made: Tensor, truth: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
    """The vanilla GAN (Goodfellow et al. 2014; VF 4): losses of the generator and of the discriminator.

    Each reaches its own weights alone, so both can be minimised as one sum, in one pass and by one optimizer. The
    generator's is the non-saturating one, -log D(G(x)). step: of the run, for spectral normalisation.
    """
    weights = discriminator.normalised(step)
    judged = discriminator(made, weights, learns=False).float()
    fake, real = discriminator(made.detach(), weights).float(), discriminator(truth, weights).float()
    # softplus(-x) = -log sigmoid(x), softplus(x) = -log(1 - sigmoid(x))
    return F.softplus(-judged).mean(), (F.softplus(fake).mean() + F.softplus(-real).mean()) / 2


def temporal(made: Tensor, truth: Tensor, flow: Tensor, valid: Tensor) -> Tensor:
    """The change of the error along the motion, so that what is wrong does not shimmer as well; what changes in truth
    (light, what a warp blurs) costs nothing."""
    return changes(made - truth, flow, valid).mean()
