"""Where to compute and in which numbers, as a user names them."""

from __future__ import annotations

import torch

from ..errors import InputError, reason
from ..model_patches.dtypes import DTYPES


def placement(device: str, dtype: str, fallback: str | None = None) -> dict:
    """{"device": …, "dtype": …} of `--device` and `--dtype`. Raises InputError where the device cannot be used.

    device "auto": the first card, or the CPU. dtype "auto": fallback; None: half precision on a card, fp32 on a CPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # the device "meta" has no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {reason(error)}.") from error
    if dtype == "auto":
        dtype = fallback or ("fp32" if torch.device(device).type == "cpu" else "fp16")
    return {"device": device, "dtype": DTYPES[dtype]}
