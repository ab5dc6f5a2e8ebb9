"""Loss weights over timesteps."""

import torch
from torch import Tensor

from .prediction import check_prediction


def min_snr_weights(snr: Tensor, prediction: str, gamma: float = 5.0) -> Tensor:
    """Min-SNR-γ weights (Hang et al. 2023, Sec. 3.4), float64 shaped as ``snr``, finite for SNR in [0, ∞].

    x0: min(SNR, γ); eps: min(SNR, γ)/SNR; v: min(SNR, γ)/(SNR + 1). All three weigh the same x0 error alike.
    At SNR 0 (zero terminal) eps tends to 1 and v is 0: that step then teaches a v network nothing.
    """
    snr = snr.double()
    if check_prediction(prediction) == "x0":
        return snr.clamp(max=gamma)
    if prediction == "eps":
        return torch.clamp(gamma / snr, max=1.0)  # not min(snr, γ)/snr, which is nan at 0
    return snr.clamp(max=gamma) / (snr + 1)
