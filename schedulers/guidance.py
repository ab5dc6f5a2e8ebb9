"""Classifier-free guidance on network outputs of any prediction type; tensors of one shape, dtype kept."""

import torch
from torch import Tensor

from ..errors import ScheduleError


def classifier_free(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """u + g·(c − u) (Ho & Salimans 2022, with g = 1 the plain conditional output)."""
    return uncond + scale * (cond - uncond)


def rescale_guidance(guided: Tensor, cond: Tensor, phi: float, frames: int, known: int = 0) -> Tensor:
    """Pull the contrast of guided outputs back to the conditional's (Lin et al. 2023, Eq. 15–16).

    ``guided`` and ``cond`` are (b·t, c, h, w) with ``frames`` = t. The standard deviation is that of a whole
    clip (c, t, h, w), as the video models were tuned with; frame by frame it would even out motion and
    flicker. ``phi`` in [0, 1]: 0 leaves ``guided`` as it is, 1 gives it the conditional's deviation. ``known``: how
    many first frames of a clip are given, not predicted, and do not count.
    """
    if frames < 1 or guided.shape[0] % frames:
        raise ScheduleError(
            f"Guidance rescale was given {guided.shape[0]} frames in the batch and {frames} frames a clip, "
            "but the batch must hold whole clips: give the clip's own number of frames."
        )

    def deviation(x: Tensor) -> Tensor:
        # float32: half precision cannot add up a clip of squares.
        clips = x.reshape(-1, frames, *x.shape[1:])[:, known:].float()
        return clips.flatten(1).std(dim=1)

    before, wanted = deviation(guided), deviation(cond)
    # A freshly initialised network answers zeros: nothing to rescale, and 0/0 must not spread.
    ratio = torch.where(before > 0, wanted / before, torch.ones_like(before))
    factor = (phi * ratio + (1 - phi)).repeat_interleave(frames)
    return guided * factor.to(guided).reshape(-1, *[1] * (guided.ndim - 1))
