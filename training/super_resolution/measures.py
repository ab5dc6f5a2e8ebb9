"""How good an enlargement is, against the truth: PSNR, SSIM and what shimmers; and what needs no learning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from ...metrics.image import psnr
from ...metrics.warp import changes
from ...pipelines.media.sheets import to_uint8
from .patches import with_flow


def lanczos(frames: Tensor, scale: int) -> Tensor:
    """Pillow's Lanczos filter of three lobes, by 8-bit pictures."""
    size = (frames.shape[-1] * scale, frames.shape[-2] * scale)
    images = [Image.fromarray(to_uint8(f)).resize(size, Image.Resampling.LANCZOS) for f in frames]
    data = [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(size[1], size[0], 3) for i in images]
    return torch.stack(data).permute(0, 3, 1, 2).float() / 255


def measure(ways: Mapping[str, Tensor], truth: Tensor) -> dict[str, dict[str, float]]:
    """Of clips (t, 3, h, w) in [0, 1] that should be the same one, beside its truth, by their names.

    psnr in dB and ssim (Wang et al. 2004): means over frames. warp_error: the mean change along the true motion, in
    levels of 255; what does not move along has it, and so has the truth. shimmer: the part of it that the truth has
    not, the change of the error. A still has neither.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    motion = with_flow(truth[None], True)
    scores = {}
    for name, made in ways.items():
        similarity = ssim(made, truth, data_range=1.0)
        assert isinstance(similarity, Tensor)  # a pair only where its picture is asked for too
        scores[name] = {"psnr": psnr(made, truth).mean().item(), "ssim": similarity.item()}
        if motion.flow is not None:
            flow, valid = motion.moves
            for key, clip in (("warp_error", made), ("shimmer", made - truth)):
                scores[name][key] = 255 * changes(clip[None], flow, valid).item()
    return scores
